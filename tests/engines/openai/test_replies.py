"""Replies of status 200: the text, how it ended, what is billed; or the error that they hold."""

import json

import pytest

from llambert.engines.openai.faults import EndpointError, FaultKind, classify
from llambert.engines.openai.replies import read_reply

USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}


def body(message, finish_reason="stop", **fields) -> str:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": USAGE, **fields})


def read(content: str, max_new_tokens: int = 10):
    return read_reply(content, max_new_tokens)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "Fresh"}], "Fresh"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Rotten?"}]}, {"type": "text", "text":
         "Fresh"}], "Fresh"),
        ([{"type": "reasoning", "text": "Rotten?"}, {"type": "output_text", "text": "Fre"}, {"type": "text",
         "text": "sh"}], "Fresh"),
        ([{"type": "image_url", "image_url": {}}, "Fresh"], "Fresh"),
        ([{"type": "reasoning", "reasoning": "Rotten?"}], ""),
        ([], ""),
        ("half an emoji \ud83c", "half an emoji \ufffd"),
    ],
)  # fmt: skip
def test_the_text_parts_are_the_response_and_thoughts_are_not(content, expected):
    assert read(body({"role": "assistant", "content": content})).text == expected


@pytest.mark.parametrize(
    ("message", "finish_reason", "expected"),
    [
        ({"content": None, "reasoning_content": "Rotten? Let me see"}, "length", "length"),
        ({"content": None, "reasoning": "Rotten?"}, "max_tokens", "length"),
        ({"role": "assistant"}, "MAX_TOKENS", "length"),
        (None, "length", "length"),
        ({"content": None, "reasoning": "Rotten?"}, "stop", "length"),
        ({"content": "", "reasoning_content": "Rotten?"}, "stop", "length"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Rotten?"}]}]}, "stop", "length"),
        ({"content": None, "thinking": "Rotten?"}, "stop", "length"),
        ({"content": None, "reasoning_content": "", "reasoning": None}, "stop", "stop"),
        ({"content": ""}, {"type": "length", "length": 7}, "length"),
        ({"content": ""}, {"type": "stop", "matched": 2}, "stop"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "stop"),
        ({"content": None}, "eos_token", "stop"),
    ],
)
def test_a_reply_without_a_text_is_an_empty_one_that_ended_or_was_cut(message, finish_reason, expected):
    reply = read(body(message, finish_reason))
    assert (reply.text, reply.refusal, reply.finish_reason, reply.num_response_tokens) == ("", None, expected, 7)


@pytest.mark.parametrize(
    ("message", "finish_reason"),
    [
        ({"content": None, "refusal": "I'd rather not."}, "stop"),
        ({"content": [{"type": "refusal", "refusal": "I'd rather not."}]}, "stop"),
        ({"content": ""}, "content_filter"),
        (None, "content_filter: PROHIBITED_CONTENT"),
        (None, "SAFETY"),
        ({"content": None}, "refusal"),
        ({"content": ""}, "ERROR_TOXIC"),
    ],
)
def test_a_refusal_is_known_by_the_message_or_the_finish_reason(message, finish_reason):
    assert read(body(message, finish_reason)).refusal


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": [], "prompt_feedback": {"block_reason": "SAFETY"}},
        {"choices": None, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
    ],
)
def test_a_blocked_prompt_without_choices_is_a_refusal(fields):
    assert read(json.dumps(fields)).refusal


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"error": {"code": 502, "message": "Provider returned error"}}, FaultKind.TRANSIENT),
        ({"error": "the engine is starting"}, FaultKind.TRANSIENT),
        ({"error": {"code": "429", "message": "slow down"}}, FaultKind.TRANSIENT),
        ({"error": {"code": 400, "message": "prompt is too long: 90 tokens > 50 maximum"}}, FaultKind.OVER_LENGTH),
        (
            {"error": "Trying to keep the first 90 tokens when context the overflows. It has only 50."},
            FaultKind.OVER_LENGTH,
        ),
        ({"error": {"message": "flagged by moderation"}}, FaultKind.REFUSED),
        ({"error": {"code": 401, "message": "no"}}, FaultKind.BAD_KEY),
        (
            {"object": "error", "message": "prompt is too long: 90 tokens > 50 maximum", "code": 400},
            FaultKind.OVER_LENGTH,
        ),
        ([{"error": {"code": 503, "message": "overloaded"}}], FaultKind.TRANSIENT),
        (
            {"choices": [{"error": {"code": 502, "message": "bad gateway"}, "finish_reason": "error"}]},
            FaultKind.TRANSIENT,
        ),
        ({"choices": [{"message": {"content": "Fre"}, "finish_reason": "abort"}]}, FaultKind.TRANSIENT),
    ],
)
def test_an_error_in_a_reply_means_what_its_code_and_words_say(content, expected):
    with pytest.raises(EndpointError) as caught:
        read(json.dumps(content))
    assert classify(caught.value.fault, 10) is expected


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '"Fresh"', "{}", '{"choices": []}', '{"choices": [7]}', '{"choices": [{"index": 0}]}',
     '{"choices": [{"message": {"content": 7}}]}', '{"choices": [{"message": {"content": [7]}}]}',
     '{"choices": [{"message": null, "finish_reason": "stop"}]}', "<html><title>Sign in</title></html>", "[" * 100_000,
     'data: {"choices": [[]]}', "data: {", 'data: {"choices": 7}'],
)  # fmt: skip
def test_what_the_api_does_not_describe_is_a_fault_that_may_pass(content):
    with pytest.raises(EndpointError) as caught:
        read(content)
    assert (caught.value.fault.name, classify(caught.value.fault, 10)) == ("Malformed", FaultKind.TRANSIENT)
    assert not caught.value.is_free


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, (0, 0)),
        ({}, (0, 0)),
        ({"prompt_tokens": None, "completion_tokens": 7}, (0, 7)),
        ({"prompt_tokens": 20.0, "completion_tokens": "7"}, (20, 0)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (0, 0)),
        ({"input_tokens": 20, "output_tokens": 7}, (20, 7)),
        ([20, 7], (0, 0)),
    ],
)
def test_an_answer_is_not_lost_for_its_usage(usage, expected):
    reply = read(body({"content": "Fresh"}, usage=usage))
    assert (reply.text, reply.num_prompt_tokens, reply.num_response_tokens) == ("Fresh", *expected)


def test_without_a_finish_reason_the_number_of_tokens_says_whether_it_was_cut():
    assert read(body({"content": "Fresh"}, None), max_new_tokens=7).finish_reason == "length"
    assert read(body({"content": "Fresh"}, None), max_new_tokens=8).finish_reason == "stop"


def test_a_stream_that_was_not_asked_for_is_joined():
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": "", "reasoning_content": "Rotten?"}}]},
        {"choices": [{"delta": {"content": "Fre"}}]},
        {"choices": [{"delta": {"content": "sh"}, "finish_reason": "length"}], "usage": None},
        {"choices": [], "usage": USAGE},
    ]
    stream = ": keep-alive\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    reply = read(stream)
    assert (reply.text, reply.finish_reason, reply.num_prompt_tokens) == ("Fresh", "length", 20)
    with pytest.raises(EndpointError):
        read('data: {"error": {"message": "overloaded", "code": 503}}\n\n')
