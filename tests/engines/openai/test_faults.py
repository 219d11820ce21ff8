"""What an endpoint's errors mean, in the words that servers and providers use for them."""

import json

import pytest

from llambert.engines.openai.faults import FaultKind, classify, limit_and_length, read_fault

MAX_NEW_TOKENS = 10


def fault(status, message, **fields):
    return read_fault("Error", status, json.dumps({"error": {"message": message, **fields}}))


# Words of vLLM, TGI, SGLang, llama.cpp, llama-cpp-python, LM Studio, Ollama, OpenAI, Azure, Groq, Anthropic, Gemini,
# Vertex, Mistral, Cohere, Fireworks, xAI, Bedrock, OpenRouter, DashScope, Moonshot, Cerebras, GitHub Models, Copilot;
# with the longest prompt that fits and the length of this one, where they tell both.
OVER_LENGTH = [
    (400, "This model's maximum context length is 1638 tokens. However, you requested 1846 tokens (1836 in the "
     "messages, "
          "10 in the completion).", (1638, 1846)),
    (400, "This model's maximum context length is 2048 tokens. However, your request has 3000 input tokens.",
     (2048, 3000)),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 10. This model's maximum context length is 4096 "
     "tokens "
          "and your request has 4090 input tokens (10 > 4096 - 4090).", (4086, 4090)),
    (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096.", (4096, 5000)),
    (400, "You passed 5000 input tokens and requested 10 output tokens. However, the model's context length is only "
     "4096 "
          "tokens, resulting in a maximum input length of 4086 tokens.", (4086, 5000)),
    (400, "This model's maximum context length is 4096 tokens. However, you requested 10 output tokens and your prompt "
          "contains at least 4087 input tokens, for a total of at least 4097 tokens.", None),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1024. Given: 1700 `inputs` tokens and "
          "10 `max_new_tokens`", (1014, 1700)),
    (422, "Input validation error: `inputs` must have less than 4096 tokens. Given: 4545", (4096, 4545)),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens).", (4096, 5000)),
    (400, "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total "
     "of 5010 "
          "tokens: 5000 tokens from the input messages and 10 tokens for the completion.", (4096, 5010)),
    (400, "Input length (16006 tokens) exceeds the maximum allowed length (5986 tokens).", (5986, 16006)),
    (400, "the request exceeds the available context size, try increasing it", None),
    (400, "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", (4096, 5000)),
    (500, "Requested tokens (2285) exceed context window of 2048", (2048, 2285)),
    (400, "This model's maximum context length is 512 tokens, however you requested 600 tokens (590 in your prompt; 10 "
          "for the completion). Please reduce your prompt; or completion length.", (512, 600)),
    (400, "Trying to keep the first 11149 tokens when context the overflows. However, the model is loaded with context "
          "length of only 3276 tokens, which is not enough.", (3276, 11149)),
    (400, "prompt too long; exceeded max context length by 12 tokens", None),
    (400, "input length exceeds the context length", None),
    (400, "Input tokens exceed the configured limit of 272,000 tokens. Your messages resulted in 509,178 tokens.",
     (272_000, 509_178)),
    (400, "Your input exceeds the context window of this model. Please adjust your input and try again.", None),
    (400, "Invalid 'messages[1].content': string too long. Expected a string with maximum length 1048576, but got a "
          "string with length 1100000 instead.", (1_048_576, 1_100_000)),
    (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389. The input or output "
          "tokens must be reduced in order to run successfully.", (30_000, 342_389)),
    (413, "Request too large for model `llama-8b` on tokens per minute (TPM): Limit 12000, Requested 14137, please "
     "reduce "
          "your message size and try again.", (12_000, 14_137)),
    (400, "Please reduce the length of the messages or completion.", None),
    (413, "Request Entity Too Large", None),
    (400, "prompt is too long: 209303 tokens > 200000 maximum", (200_000, 209_303)),
    (400, "input length and `max_tokens` exceed context limit: 199995 + 10 > 200000, decrease input length or "
          "`max_tokens` and try again", (199_990, 199_995)),
    (400, "The input token count (2845475) exceeds the maximum number of tokens allowed (1048576).", (1_048_576,
     2_845_475)),
    (400, "Unable to submit request because the input token count is 40000 but model only supports up to 32768.",
     (32_768, 40_000)),
    (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
     (32_768, 40_000)),
    (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.", (4081, 5000)),
    (400, "too many tokens: size limit exceeded by 1000 tokens. Try using shorter or fewer inputs.", None),
    (400, "The prompt is too long: 140000, model maximum context length: 131071", (131_071, 140_000)),
    (400, "This model's maximum prompt length is 131072 but the request contains 140000 tokens.", (131_072, 140_000)),
    (400, "Input is too long for requested model.", None),
    (400, "Too many input tokens. Max input tokens: 8192, request input token count: 10000", (8192, 10_000)),
    (400, "This endpoint's maximum context length is 32768 tokens. However, you requested about 40000 tokens (39990 of "
          "text input, 10 in the output).", (32_768, 40_000)),
    (400, "InternalError.Algo.InvalidParameter: Range of input length should be [1, 98304]", None),
    (400, "Invalid request: Your request exceeded model token limit: 8192 (requested: 9000)", (8192, 9000)),
    (400, "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
     (8192, 9000)),
    (413, "Request body too large for gpt-4o model. Max size: 8000 tokens.", None),
    (400, "prompt token count of 70000 exceeds the limit of 64000", (64_000, 70_000)),
    (400, "Invalid input argument: the number of input tokens 5000 cannot exceed the total tokens limit 4096",
     (4096, 5000)),
    (400, "The sum of prompt length (5000.0), query length (0.0) and max_tokens (10) should not exceed max_seq_len "
          "(4096)", None),
    (400, "Prompt length 5000 is greater than max_seq_len 4096", (4096, 5000)),
    (400, "Request prompt has 5000 tokens in total, larger than the model input length limit 4096.", (4096, 5000)),
    (400, "Prompt exceeds max length", None),
    (400, "max_tokens must be at least 1, got -512.", None),
    (400, "max_tokens must be at least 1, got 0.", None),
    (400, "You passed 50000 input characters and requested 10 output tokens. However, the model's context length is "
          "only 4096 tokens, resulting in a maximum input length of 4086 tokens (at most 49032 characters).",
     (49_022, 50_000)),
    (400, "the input prompt token length 5000 exceeds session_len 4096", (4096, 5000)),
    (400, "Request payload size exceeds the limit: 20971520 bytes.", None),
    (400, "Input messages too long: 5000 tokens, limit 4096", None),
    (422, "The text has 5000 tokens, which is more than the limit of 4096 tokens.", (4096, 5000)),
    (400, "Number of tokens (5000) exceeds limit (4096)", (4096, 5000)),
    (400, "Input tokens 5000 > max 4096", (4096, 5000)),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "numbers"), OVER_LENGTH)
def test_a_prompt_that_is_too_long_is_known_in_the_words_of_every_server_with_its_numbers(status, message, numbers):
    found = fault(status, message)
    assert classify(found, MAX_NEW_TOKENS) is FaultKind.OVER_LENGTH
    assert limit_and_length(found) == numbers


@pytest.mark.parametrize(
    ("status", "body", "numbers"),
    [
        (400, {"error": {"code": "context_length_exceeded", "message": "No."}}, None),
        (400, {"error": {"type": "exceed_context_size_error", "message": "No.", "n_prompt_tokens": 90, "n_ctx":
         50}}, (50, 90)),
        (422, {"error": "`inputs` must have less than 50 tokens. Given: 90", "error_type": "validation"}, (50, 90)),
        (400, [{"error": {"code": 400, "message": "The input token count (90) exceeds the maximum number of tokens "
         "allowed (50)."}}],
         (50, 90)),
        (400, {"object": "error", "message": "The input (90 tokens) is longer than the model's context length (50 "
         "tokens)."}, (50, 90)),
        (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 50 - received 90."},
         (50, 90)),
        (400, {"detail": "prompt is too long: 90 tokens > 50 maximum"}, (50, 90)),
    ],
)  # fmt: skip
def test_errors_are_read_in_every_form_that_servers_give_them(status, body, numbers):
    found = read_fault("Error", status, json.dumps(body))
    assert (classify(found, MAX_NEW_TOKENS), limit_and_length(found)) == (FaultKind.OVER_LENGTH, numbers)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "max_tokens is too large: 9000. This model supports at most 4096 completion tokens."),
        (400, "This model's maximum context length is 4096 tokens. However, you requested 9010 tokens (10 in the "
         "messages, "
              "9000 in the completion)."),
        (400, "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 4096 "
              "tokens and your request has 10 input tokens (9000 > 4096 - 10)."),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 90 `inputs` tokens "
         "and "
              "9000 `max_new_tokens`"),
        (422, "Input validation error: `max_new_tokens` must be <= 512. Given: 9000"),
        (400, "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
              "`context_window` for this model"),
        (400, "Range of max_tokens should be [1, 8192]"),
        (400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
        (400, "The maximum tokens you requested exceeds the model limit of 4096."),
        (400, "It has a maxOutputTokens value of 9000 but the supported range is from 1 to 8193 (exclusive)."),
        (400, "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 10 instead."),
        (400, "max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens"),
    ],
)  # fmt: skip
def test_too_many_response_tokens_are_no_prompt_that_is_too_long(status, message):
    assert classify(fault(status, message), max_new_tokens=9000) is FaultKind.BAD_LIMIT


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Invalid 'stop': array too long. Expected an array with maximum length 4.", FaultKind.FAILED),
        (400, "The Content-Length header is required.", FaultKind.FAILED),
        (400, "Invalid request: the name is fine. Its title has a list too long for us", FaultKind.FAILED),
        (501, "This is not implemented", FaultKind.FAILED),
        (498, "Flex tier capacity exceeded", FaultKind.TRANSIENT),
        (424, "Request failed during generation", FaultKind.TRANSIENT),
        (499, "The client closed the request", FaultKind.TRANSIENT),
        (400, "The model has crashed without additional information. (Exit code: null)", FaultKind.TRANSIENT),
        (400, "Model unloaded.", FaultKind.TRANSIENT),
        (400, "Incorrect API key provided: x***y.", FaultKind.BAD_KEY),
        (403, "API key expired. Please renew it.", FaultKind.BAD_KEY),
        (405, "Method Not Allowed", FaultKind.NO_ADDRESS),
        (400, "films/m is not a valid model ID", FaultKind.NO_MODEL),
        (
            400,
            "Could not finish the message because max_tokens or model output limit was reached.",
            FaultKind.TRUNCATED,
        ),
        (422, "the length of a name must be positive", FaultKind.FAILED),
        (422, "Input validation error: `top_p` must be > 0.0 and < 1.0", FaultKind.FAILED),
        (400, "Unsupported parameter: 'max_tokens' is not supported with this model.", FaultKind.FAILED),
        (
            429,
            "Rate limit reached on tokens per min (TPM): Limit 10000, Used 9000, Requested 1200.",
            FaultKind.TRANSIENT,
        ),
        (500, "upstream connect error", FaultKind.TRANSIENT),
        (529, "Overloaded", FaultKind.TRANSIENT),
        (401, "Incorrect API key provided", FaultKind.BAD_KEY),
        (403, "Forbidden", FaultKind.DENIED),
        (402, "Insufficient Balance", FaultKind.NO_QUOTA),
        (400, "Your credit balance is too low to access the API.", FaultKind.NO_QUOTA),
        (404, "The model `m` does not exist", FaultKind.NO_MODEL),
    ],
)
def test_other_errors_are_told_apart(status, message, expected):
    assert classify(fault(status, message), MAX_NEW_TOKENS) is expected


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"error": {"code": 403, "message": "m requires moderation. Your input was flagged.", "metadata":
         {"reasons": ["hate"]}}}),
        (403, {"error": {"code": 403, "message": "No.", "metadata": {"reasons": ["violence"], "flagged_input": "…"}}}),
        (400, {"error": {"code": "content_filter", "message": "The response was filtered."}}),
        (400, {"error": {"code": "400", "message": "No.", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
        (400, {"error": {"message": "Your request was rejected as a result of our safety system."}}),
        (400, {"error": {"message": "Content Exists Risk"}}),
        (403, {"code": "Denied", "error": "The content violates usage guidelines."}),
        (400, {"contentFilter": [{"level": 0}], "error": {"code": "1301", "message": "可能包含不安全或敏感内容"}}),
        (400, {"error": {"code": "SensitiveContentDetected", "message": "No."}}),
        (400, {"error": {"message": "The text may contain sensitive information."}}),
        (400, {"error": {"message": "Blocked by a guardrail"}}),
        (400, {"error": {"message": "Output data may contain inappropriate content."}}),
        (400, {"error": {"message": "litellm.ContentPolicyViolationError: AzureException"}}),
    ],
)  # fmt: skip
def test_moderation_is_known_by_codes_or_words(status, body):
    assert classify(read_fault("Error", status, json.dumps(body)), MAX_NEW_TOKENS) is FaultKind.REFUSED


def test_what_an_error_repeats_of_the_request_says_nothing_about_it():
    body = {
        "detail": [
            {"type": "missing", "loc": ["body", "x"], "msg": "Field required", "input": "maximum context length"}
        ]
    }
    assert classify(read_fault("Error", 422, json.dumps(body)), MAX_NEW_TOKENS) is FaultKind.FAILED


def test_a_page_is_told_by_its_title():
    page = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>" + "x" * 5000
    assert read_fault("Error", 502, page).message == "an HTML page: 502 Bad Gateway"
