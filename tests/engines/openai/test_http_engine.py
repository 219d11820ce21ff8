"""The openai engine against a real HTTP server on loopback, scripted to misbehave."""

import json
import logging
import time

import pytest

from llambert.engines import StoppedEarly, check
from llambert.engines.answers import make_renderer
from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe
from tests.fixtures.chat_templates import QWEN3
from tests.fixtures.openai_endpoint import KEY, TASK, chat, error, only_for
from tests.fixtures.tiny_llm import tiny_tokenizer

pytest.importorskip("openai", reason="needs the openai extra")
PRICES = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_response_tokens": 30.0}


def test_records_are_asked_as_chat_with_shots_as_turns(endpoint, make_engine):
    endpoint.script.append(chat("Fresh", tokens=(31, 3)))
    (answer,) = make_engine().annotate(["A fine film."])
    request = endpoint.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["messages"] == [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "Review: Dull."},
        {"role": "assistant", "content": "negative"},
        {"role": "user", "content": "Review: A fine film."},
    ]
    assert (request["model"], request["temperature"], request["max_tokens"], request["seed"]) == ("m", 0.0, 10, 0)
    assert (answer.response, answer.finish_reason, answer.error) == ("Fresh", "stop", None)
    assert (answer.num_prompt_tokens, answer.num_response_tokens, answer.num_truncated_tokens) == (31, 3, 0)
    assert json.loads(answer.prompt) == request["messages"]


def test_a_completion_prompt_goes_to_the_completions_endpoint(endpoint, make_engine):
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    endpoint.otherwise = {"choices": [{"text": " positive", "index": 0, "finish_reason": "length"}], "usage": usage}
    (answer,) = make_engine(prompt="completion").annotate(["Fine."])
    assert endpoint.requests[0]["path"] == "/v1/completions"
    assert endpoint.requests[0]["prompt"] == answer.prompt == "Review: Fine.\nSentiment:"
    assert endpoint.requests[0]["stop"] == ["\n\n"]
    assert (answer.response, answer.finish_reason) == (" positive", "length")


def test_a_server_renders_the_same_prompt_from_what_it_is_sent_as_the_local_engines_do(endpoint, make_engine):
    settings = {"enable_thinking": False}
    (answer,) = make_engine(chat_template_kwargs=settings).annotate(["A fine film."])
    request, tokenizer = endpoint.requests[0], tiny_tokenizer(QWEN3)
    assert request["chat_template_kwargs"] == settings
    served = tokenizer.apply_chat_template(
        request["messages"], tokenize=False, add_generation_prompt=True, **request["chat_template_kwargs"]
    )
    local = AnnotatorRecipe(model="m", num_records=1, prompt="chat", mode="score", chat_template_kwargs=settings)
    assert served == make_renderer(local, TASK, tokenizer).render("A fine film.")
    assert served.endswith("<think>\n\n</think>\n\n")
    assert json.loads(answer.prompt) == request["messages"]


def test_an_endpoint_that_takes_no_template_settings_stops_the_run_with_one_line(endpoint, make_engine):
    message = "Unrecognized request argument supplied: chat_template_kwargs"
    endpoint.otherwise = error(400, None, message)
    with pytest.raises(
        StoppedEarly, match=r"^annotator.chat_template_kwargs: .* does not take them: .*; leave them out$"
    ):
        make_engine(chat_template_kwargs={"enable_thinking": False}).annotate(["x"])


def test_a_completion_ends_in_the_answers_prefix(endpoint, make_engine):
    endpoint.otherwise = {"choices": [{"text": " positive", "index": 0, "finish_reason": "stop"}]}
    make_engine(prompt="completion", answer_prefix=" I say").annotate(["Fine."])
    assert endpoint.requests[0]["prompt"] == "Review: Fine.\nSentiment: I say"


def test_answers_keep_the_order_of_the_texts_and_the_limit_of_concurrency(endpoint, make_engine):
    def late(request):
        time.sleep(0.1 if request["messages"][-1]["content"].endswith("0") else 0.01)
        return chat(request["messages"][-1]["content"])

    endpoint.otherwise = late
    answers = make_engine(limits={"concurrency": 3}).annotate([str(n) for n in range(12)])
    assert [answer.response for answer in answers] == [f"Review: {n}" for n in range(12)]
    assert 2 <= endpoint.most_under_way <= 3


def test_a_busy_endpoint_is_asked_again_when_it_says(endpoint, make_engine):
    endpoint.script += [error(429, "rate_limit_exceeded", Retry_After="0.4")]
    (answer,) = make_engine().annotate(["x"])
    assert answer.response == "Positive"
    assert endpoint.times[1] - endpoint.times[0] >= 0.4


def test_nobody_asks_while_a_busy_endpoint_is_to_be_left_alone(endpoint, make_engine):
    endpoint.script += [error(429, Retry_After="0.5")]
    make_engine(limits={"concurrency": 1}).annotate(["a", "b", "c"])
    assert all(later - endpoint.times[0] >= 0.5 for later in endpoint.times[1:])


@pytest.mark.parametrize(
    "faults",
    [
        [error(500), error(503)],
        [error(429), error(429)],
        [0.6],  # later than the time-out
        [b"{\"choices\": [{\"mess", {"choices": []}, {"choices": [{"message": {"content": 7}}]}, []],
        [(200, b"<html>gateway</html>", {"Content-Type": "text/html"})],
    ],
    ids=["5xx", "429 without Retry-After", "time-out", "malformed JSON", "no JSON"],
)  # fmt: skip
def test_a_fault_that_passes_costs_nothing_but_time(endpoint, make_engine, faults):
    endpoint.script += faults
    (answer,) = make_engine(limits={"timeout_s": 0.3}).annotate(["x"])
    assert (answer.response, answer.error) == ("Positive", None)
    assert len(endpoint.requests) == len(faults) + 1


@pytest.mark.parametrize(
    ("fault", "expected", "kind"),
    [
        (error(500), "InternalServerError", "passing"),
        (b"{", "Malformed", "passing"),
        (0.4, "APITimeoutError", "passing"),
        (error(429), "RateLimitError", "passing"),
        ({"error": {"code": 502, "message": "bad gateway"}}, "ErrorInReply", "passing"),
        (error(422), "Unprocessable", "failed"),
    ],
)
def test_a_fault_that_stays_costs_that_record_alone(endpoint, make_engine, fault, expected, kind):
    endpoint.otherwise = lambda request: fault if request["messages"][-1]["content"] == "Review: b" else chat()
    limits = {"max_attempts": 2, "timeout_s": 0.2}
    first, second, third = make_engine(limits=limits).annotate(["a", "b", "c"])
    assert (first.response, third.response) == ("Positive", "Positive")
    assert (second.response, second.finish_reason) == (None, "error")
    assert second.error.startswith(expected)
    assert (first.error_kind, second.error_kind) == (None, kind)


@pytest.mark.parametrize(
    "reply",
    [
        chat(None, refusal="I can't help with that."),
        chat(None, finish_reason="content_filter"),
        error(400, "content_filter", "filtered"),
        error(400, "content_policy_violation", "policy"),
    ],
)
def test_a_refusal_is_an_error_of_its_own_kind(endpoint, make_engine, reply):
    endpoint.otherwise = only_for("evil", reply)
    (answer,) = make_engine().annotate(["evil"])
    assert (answer.response, answer.finish_reason) == (None, "error")
    assert answer.error.startswith("Refused: ")
    assert answer.error_kind == "refused"
    assert len(endpoint.requests) == 2  # and a harmless text, as nothing was answered before


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_thoughts_without_a_content_are_an_empty_response_that_was_cut(endpoint, make_engine, finish_reason):
    endpoint.otherwise = chat(None, finish_reason)
    endpoint.otherwise["choices"][0]["message"]["reasoning_content"] = "positive?"
    (answer,) = make_engine().annotate(["x"])
    assert (answer.response, answer.finish_reason, answer.num_response_tokens) == ("", "length", 2)


def test_a_response_that_the_endpoint_threw_away_for_its_length_was_cut(endpoint, make_engine):
    endpoint.otherwise = error(400, None, "Could not finish the message because max_tokens was reached.")
    (answer,) = make_engine().annotate(["x"])
    assert (answer.response, answer.finish_reason, answer.error_kind) == ("", "length", None)
    assert len(endpoint.requests) == 1


def test_half_a_character_in_a_response_becomes_a_replacement_character(endpoint, make_engine):
    endpoint.otherwise = chat("Positive \ud83d")
    (answer,) = make_engine().annotate(["x"])
    assert answer.response == "Positive \ufffd"
    endpoint.script += [chat(None, refusal="no \ud83d")]
    (answer,) = make_engine().annotate(["x"])
    assert answer.error.encode().endswith("no \ufffd".encode())


# Over-long prompts


def context_of(num_chars: int, with_numbers: bool):
    def reply(request):
        used = sum(len(message["content"]) for message in request["messages"])
        if used <= num_chars:
            return chat(tokens=(used // 4, 1))
        numbers = f"maximum context length is {num_chars} tokens. However, your messages resulted in {used} tokens."
        return error(400, "context_length_exceeded", numbers if with_numbers else "This is too long.")

    return reply


@pytest.mark.parametrize("with_numbers", [True, False])
@pytest.mark.parametrize(("keep", "expected"), [("head", "abc"), ("tail", "xyz"), ("head_tail", "abc ... xyz")])
def test_a_text_too_long_for_the_endpoint_is_cut_and_flagged(endpoint, make_engine, with_numbers, keep, expected):
    endpoint.otherwise = context_of(400, with_numbers)
    (answer,) = make_engine(truncation=keep).annotate(["abc" + "m" * 2000 + "xyz"])
    sent = json.loads(answer.prompt)[-1]["content"].removeprefix("Review: ")
    assert answer.response == "Positive"
    assert sent.startswith(expected[:3]) or sent.endswith(expected[-3:])
    assert sent.startswith("abc") == (keep != "tail")
    assert sent.endswith("xyz") == (keep != "head")
    assert json.loads(answer.prompt)[1]["content"] == "Review: Dull."  # shots are kept
    dropped = 2006 - len(sent.replace(" ... ", ""))
    assert answer.num_truncated_tokens == pytest.approx(dropped / 4, rel=0.05)
    assert len(endpoint.requests) <= 6


def test_a_prompt_that_is_too_long_without_a_text_is_over_length(endpoint, make_engine):
    endpoint.otherwise = lambda request: (
        context_of(10, with_numbers=True)(request) if len(endpoint.requests) > 1 else chat()
    )
    _, answer = make_engine(limits={"concurrency": 1}).annotate(["some text"] * 2)
    assert answer.error.startswith("OverLength: ")
    assert answer.error_kind == "over_length"


def test_a_text_is_cut_by_the_numbers_of_a_server_that_answers_422(endpoint, make_engine):
    def reply(request):
        used = sum(len(message["content"]) for message in request["messages"])
        told = f"`inputs` tokens + `max_new_tokens` must be <= 310. Given: {used} `inputs` tokens and 10 more"
        return chat() if used <= 300 else (422, {"error": told, "error_type": "validation"}, {})

    endpoint.otherwise = reply
    (answer,) = make_engine().annotate(["x" * 20_000])
    assert answer.response == "Positive"
    assert sum(len(message["content"]) for message in json.loads(answer.prompt)) > 200
    assert len(endpoint.requests) <= 3


def test_a_prompt_too_long_for_any_text_stops_the_run(endpoint, make_engine):
    endpoint.otherwise = context_of(10, with_numbers=True)
    with pytest.raises(StoppedEarly, match=r"no answer, .* nor for a harmless text: .*context"):
        make_engine(limits={"concurrency": 1}).annotate(["some text"] * 40)


# Limits and budget


def test_requests_keep_to_the_pace(endpoint, make_engine):
    make_engine(limits={"requests_per_minute": 600}).annotate(["x"] * 12)
    assert endpoint.times[-1] - endpoint.times[0] >= 0.8  # eleven tenths of a second, less what the first was late
    assert len(endpoint.times) == 12


def test_tokens_keep_to_the_pace_as_the_endpoint_counts_them(endpoint, make_engine):
    endpoint.otherwise = chat(tokens=(900, 100))  # far more than the texts let expect
    make_engine(limits={"tokens_per_minute": 300_000, "concurrency": 1}).annotate(["x"] * 4)
    assert endpoint.times[-1] - endpoint.times[0] >= 0.5  # three times a thousand tokens at 5,000 a second


@pytest.mark.parametrize(
    ("limits", "before", "num_affordable"),
    [
        ({"budget_tokens": 1000}, (0, 0), 45),
        ({"budget_tokens": 1000}, (500, 60), 20),
        ({"budget_usd": 0.01, **PRICES}, (0, 0), 38),
    ],
)  # fmt: skip
def test_the_budget_stops_before_it_is_passed_and_what_was_paid_is_kept(
    endpoint, make_engine, limits, before, num_affordable
):
    engine = make_engine(before, {**limits, "concurrency": 4})
    with pytest.raises(StoppedEarly, match=r"the budget ends here: .* are spent; raise it to go on") as stop:
        engine.annotate(["x"] * 100)
    answers = stop.value.answers
    # A request costs 22 tokens, or 20 at 10 and 2 at 30 dollars a million; its highest is set aside before it goes.
    assert num_affordable - 8 <= len(answers) <= len(endpoint.requests) <= num_affordable
    assert all(answer.response == "Positive" for answer in answers)
    num_asked = len(endpoint.requests)
    with pytest.raises(StoppedEarly) as again:
        engine.annotate(["x"])
    assert again.value.answers == []
    assert len(endpoint.requests) == num_asked


def test_a_request_that_timed_out_counts_as_paid(endpoint, make_engine):
    endpoint.otherwise = 0.5
    engine = make_engine(limits={"budget_tokens": 300, "timeout_s": 0.1, "max_attempts": 50, "concurrency": 1})
    with pytest.raises(StoppedEarly, match="budget"):
        engine.annotate(["x"])
    assert len(endpoint.requests) <= 2


# Reasons to stop at once


def test_a_key_that_is_refused_stops_before_the_first_record(endpoint, make_engine):
    endpoint.models_status = 401
    with pytest.raises(InputError, match="refuses the key in OPENAI_API_KEY"):
        make_engine()


@pytest.mark.parametrize(
    ("status", "models"), [(404, {}), (200, b"<html>Welcome"), (200, []), (200, None), (200, b"{")]
)
def test_an_endpoint_without_a_list_of_models_is_fine(endpoint, make_engine, status, models):
    endpoint.models_status, endpoint.models = status, models
    assert make_engine().annotate(["x"])[0].response == "Positive"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (error(404, "model_not_found"), "annotator.model: 'm' is not at"),
        (error(429, "insufficient_quota"), "no quota left"),
        (error(401), "refuses the key"),
        (error(429, Retry_After="86400"), "asks to be left alone"),
    ],
)
def test_what_no_patience_mends_stops_with_the_answers_so_far(endpoint, make_engine, fault, message):
    endpoint.script += [chat(), chat()]
    endpoint.otherwise = fault
    with pytest.raises(StoppedEarly, match=message) as stop:
        make_engine(limits={"concurrency": 1}).annotate(["x"] * 20)
    assert len(stop.value.answers) == 2
    assert len(endpoint.requests) == 3


def test_nothing_but_failures_are_the_endpoints_and_make_no_rejects(endpoint, make_engine):
    endpoint.script += [chat(), chat()]
    endpoint.otherwise = error(400, "unsupported_parameter", "temperature is not supported")
    with pytest.raises(StoppedEarly, match=r"no answer, .*\(10\) nor .*temperature is not") as stop:
        make_engine(limits={"concurrency": 1}).annotate(["x"] * 40)
    assert [answer.response for answer in stop.value.answers] == ["Positive", "Positive"]


def test_an_endpoint_that_is_not_there_is_said_in_one_line(endpoint, make_engine):
    with pytest.raises(InputError, match="cannot be reached") as caught:
        make_engine(base_url="http://127.0.0.1:9/v1")
    assert "\n" not in str(caught.value)


def test_openai_itself_wants_a_key(endpoint, make_engine, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="set OPENAI_API_KEY"):
        make_engine(base_url=None)


def test_a_server_of_ones_own_wants_none(endpoint, make_engine, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert make_engine().annotate(["x"])[0].response == "Positive"


def test_the_key_goes_into_requests_and_nowhere_else(endpoint, make_engine, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    echo = f"Incorrect API key provided: {KEY}"
    filtered = f"Content filter: {KEY}"
    endpoint.script += [chat(), error(400, None, KEY), error(400, "content_filter", filtered), chat(None, refusal=echo)]
    endpoint.otherwise = error(401, "invalid_api_key", echo)
    engine = make_engine(limits={"concurrency": 1})
    answers = engine.annotate(["a", "a", "b", "c"])[1:]
    with pytest.raises(StoppedEarly) as stop:
        engine.annotate(["d"])
    assert endpoint.keys[0] == f"Bearer {KEY}"
    assert len([answer for answer in answers if "[key]" in answer.error]) == 3
    seen = [str(answers), str(stop.value), repr(stop.value.__cause__), caplog.text, *capfd.readouterr()]
    assert not [text for text in seen if KEY in text]


@pytest.mark.parametrize(
    ("annotator", "message"),
    [
        ({"mode": "score"}, "annotator.mode: engine 'openai' cannot 'score'"),
        ({"prompt": "llama2"}, "annotator.prompt: .*own chat template"),
        ({"max_model_len": 4096}, "annotator.max_model_len"),
        ({"max_replicas": 2}, "annotator.max_replicas"),
        ({"decoding": {"top_k": 50}}, "annotator.decoding.top_k"),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            "annotator.chat_template_kwargs: OpenAI's API takes none",
        ),
        ({"chat_template_kwargs": {"tools": []}}, "annotator.chat_template_kwargs.tools: is set by llambert"),
        ({"chat_template_kwargs": {"x": 1}, "prompt": "completion"}, "annotator.chat_template_kwargs: only prompts of"),
        ({"answer_prefix": "Answer:"}, "annotator.answer_prefix: an endpoint begins the answer to a chat itself"),
        ({"base_url": "http://user:secret@host/v1"}, "annotator.base_url: expected .* without user or password"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused_before_anything_is_asked(annotator, message):
    settings = {"engine": "openai", "model": "m", "num_records": 1, "prompt": "chat", **annotator}
    recipe = AnnotatorRecipe(**settings)
    with pytest.raises(InputError, match=message) as caught:
        check(recipe, TASK)
    assert "secret" not in str(caught.value)
