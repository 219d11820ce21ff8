"""The openai engine finds out which parameters an endpoint takes; nothing is asked twice but what was refused."""

import json

import pytest

from llambert.engines import StoppedEarly
from llambert.engines.openai.faults import read_fault
from llambert.engines.openai.parameters import Parameters
from llambert.errors import InputError
from llambert.recipe import Decoding
from tests.fixtures.openai_endpoint import chat, error

pytest.importorskip("openai", reason="needs the openai extra")


def reasoning(request):
    """An endpoint of a reasoning model: the new limit, and no sampling but its own."""
    if "max_tokens" in request:
        return error(400, "unsupported_parameter", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.")
    for name in ("temperature", "top_p"):
        if request.get(name, 1) != 1:
            return error(
                400, "unsupported_value", f"Unsupported value: '{name}' does not support {request[name]} here."
            )
    return chat()


def test_a_reasoning_model_is_asked_with_what_it_takes_at_no_cost_of_an_attempt(endpoint, make_engine):
    endpoint.otherwise = reasoning
    engine = make_engine(limits={"max_attempts": 1, "concurrency": 1})
    assert [answer.response for answer in engine.annotate(["a", "b", "c"])] == ["Positive"] * 3
    assert len(endpoint.requests) == 2 + 3
    assert endpoint.requests[-1]["max_completion_tokens"] == 10
    assert not {"max_tokens", "temperature"} & endpoint.requests[-1].keys()
    (note,) = engine.notes
    assert "annotator.decoding.temperature" in note


def test_requests_under_way_at_once_learn_it_together(endpoint, make_engine):
    endpoint.otherwise = lambda request: (200, reasoning(request), {}) if "max" in request else reasoning(request)
    engine = make_engine(limits={"max_attempts": 1, "concurrency": 8})
    assert [answer.response for answer in engine.annotate(["x"] * 40)] == ["Positive"] * 40
    assert len(endpoint.requests) <= 40 + 3 * 8
    assert len(engine.notes) == 1


def test_what_the_recipe_asks_for_is_never_dropped_silently(endpoint, make_engine):
    endpoint.otherwise = reasoning
    with pytest.raises(StoppedEarly, match=r"annotator.decoding.temperature: .* does not take 0.7: .* null") as stop:
        make_engine(decoding={"temperature": 0.7}, limits={"concurrency": 1}).annotate(["a", "b"])
    assert "\n" not in str(stop.value)
    assert len(endpoint.requests) == 2


def test_the_models_own_temperature_may_be_asked_for(endpoint, make_engine):
    endpoint.otherwise = reasoning
    engine = make_engine(decoding={"temperature": 1.0})
    assert engine.annotate(["a"])[0].response == "Positive"
    assert engine.notes == []
    assert endpoint.requests[-1]["temperature"] == 1.0


@pytest.mark.parametrize("prompt", ["chat", "completion"])
def test_nothing_is_sent_that_the_recipe_leaves_null(endpoint, make_engine, prompt):
    if prompt == "completion":
        endpoint.otherwise = {"choices": [{"text": "positive", "finish_reason": "stop"}], "usage": None}
    nulls = dict.fromkeys(("temperature", "top_p", "top_k", "seed"))
    (answer,) = make_engine(prompt=prompt, decoding=nulls).annotate(["x"])
    assert answer.response.lower() == "positive"
    assert not nulls.keys() & endpoint.requests[0].keys()


def test_completions_learn_as_chats_do(endpoint, make_engine):
    def reply(request):
        for name in ("max_tokens", "seed", "stop"):
            if name in request:
                return error(422, None, f"Unknown parameter: '{name}'")
        return {"choices": [{"text": "positive", "finish_reason": "stop"}]}

    endpoint.otherwise = reply
    engine = make_engine(prompt="completion")
    assert engine.annotate(["x"])[0].response == "positive"
    assert endpoint.requests[-1]["max_completion_tokens"] == 10
    assert len(engine.notes) == 2


def test_an_endpoint_without_any_limit_of_tokens_is_not_asked(endpoint, make_engine):
    endpoint.otherwise = lambda request: error(
        400, "unknown_parameter", f"Unknown: {next(name for name in request if name.startswith('max'))}"
    )
    with pytest.raises(StoppedEarly, match="takes neither max_completion_tokens nor max_tokens"):
        make_engine(limits={"concurrency": 1}).annotate(["x"] * 5)
    assert len(endpoint.requests) == 2


def test_too_many_response_tokens_are_said_at_once_and_no_other_name_is_tried(endpoint, make_engine):
    endpoint.otherwise = error(400, "invalid_value", "max_tokens is too large: 10. At most 5 completion tokens.")
    with pytest.raises(StoppedEarly, match=r"annotator.decoding.max_new_tokens: .* does not give 10"):
        make_engine(limits={"concurrency": 1}).annotate(["x"] * 5)
    assert len(endpoint.requests) == 1


def test_what_the_endpoint_took_before_is_not_blamed_for_one_record(endpoint, make_engine):
    wrong = error(400, None, "Invalid value: temperature 0.7 in the message is not supported")
    endpoint.otherwise = lambda request: wrong if request["messages"][-1]["content"] == "Review: b" else chat()
    engine = make_engine(decoding={"temperature": 0.7}, limits={"concurrency": 1})
    first, second, third = engine.annotate(["a", "b", "c"])
    assert (first.response, second.error_kind, third.response) == ("Positive", "failed", "Positive")


DEFAULTS = Decoding(top_k=0)


@pytest.mark.parametrize(
    ("status", "body", "name"),
    [
        (400, {"error": {"message": "Unrecognized request argument supplied: max_completion_tokens"}},
         "max_completion_tokens"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"],
                           "msg": "Extra inputs are not permitted", "input": 10}]}, "max_completion_tokens"),
        (422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                                                          "msg": "Extra inputs are not permitted"}]}}, "seed"),
        (400, [{"error": {"message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}}],
         "seed"),
        (422, {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"},
         "top_p"),
        (422, {"error": "Input validation error: `temperature` must be strictly positive"}, "temperature"),
        (400, {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}, "top_p"),
        (400, {"error": {"message": "property 'seed' is unsupported"}}, "seed"),
        (400, {"error": {"message": "Argument not supported on this model: stop"}}, "stop"),
        (400, {"error": {"message": "No.", "param": "temperature", "code": "unsupported_value"}}, "temperature"),
        (400, {"message": "unknown field: parameter 'seed' is not a valid field"}, "seed"),
        (400, {"error": {"message": "temperature is deprecated for this model"}}, "temperature"),
        (404, {"error": {"message": "No endpoints found that support the parameter: seed"}}, "seed"),
        (400, {"error": {"message": "Unsupported parameter: 'seed'. Supported are: model, messages, "
         "max_completion_tokens, temperature, top_p, stop."}}, "seed"),
        (400, {"error": {"message": "`temperature` may only be set to 1 when thinking is enabled."}}, "temperature"),
        (400, {"error": {"message": "temperature is fixed at 1 for this model"}}, "temperature"),
        (400, {"error": {"message": "No.", "param": "seed", "code": "invalid_value"}}, "seed"),
        (501, {"error": {"message": "seed is not implemented"}}, "seed"),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_known_in_the_words_of_many_servers(status, body, name):
    parameters = Parameters(DEFAULTS, "\n", "http://host/v1", "max_completion_tokens")
    sent = parameters.current()
    assert parameters.drop_refused(read_fault("Error", status, json.dumps(body)), sent)
    assert sent.keys() - parameters.current().keys() == {name}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Invalid image in message 1"),
        (400, "messages: roles must alternate; this is not supported. Please stop."),
        (400, "top_k is not supported"),  # which was not sent
        (500, "temperature is not supported"),
        (400, "the temperature of the text was 3"),
    ],
)
def test_other_errors_change_no_parameter(status, message):
    parameters = Parameters(DEFAULTS, "\n", "http://host/v1", "max_tokens")
    sent = parameters.current()
    assert not parameters.drop_refused(read_fault("Error", status, json.dumps({"error": {"message": message}})), sent)
    assert parameters.current() == sent


def test_a_value_other_than_the_default_is_an_input_error():
    parameters = Parameters(Decoding(top_p=0.9), None, "http://host/v1", "max_tokens")
    with pytest.raises(InputError, match=r"annotator.decoding.top_p: .* set it to null"):
        parameters.drop_refused(
            read_fault("Error", 400, '{"error": {"message": "top_p is not supported"}}'), parameters.current()
        )
