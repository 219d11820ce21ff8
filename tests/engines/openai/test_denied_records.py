"""Whose fault an error is: one record's, for which the endpoint answers others, or the endpoint's own."""

import pytest

from llambert.engines import StoppedEarly
from llambert.errors import InputError
from tests.fixtures.openai_endpoint import HANGS_UP, chat, error, only_for

pytest.importorskip("openai", reason="needs the openai extra")
ONE_BY_ONE = {"concurrency": 1, "max_attempts": 1}
MODERATED = error(403, "403", "The model's moderation flagged this input.")
DENIED = error(403, None, "Forbidden")
FIREWALL = (403, b"<html><title>Request blocked</title></html>", {"Content-Type": "text/html"})


def num_asked(endpoint, text: str) -> int:
    return sum(text in request["messages"][-1]["content"] for request in endpoint.requests)


@pytest.mark.parametrize("fault", [MODERATED, DENIED, FIREWALL], ids=["in words", "bare", "a firewall's page"])
@pytest.mark.parametrize("texts", [["evil", "a", "b"], ["a", "evil", "b"], ["a", "b", "evil"], ["evil"]])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_record_that_is_denied_alone_costs_that_record(endpoint, make_engine, fault, texts, concurrency):
    endpoint.otherwise = only_for("evil", fault)
    answers = make_engine(limits={"concurrency": concurrency}).annotate(texts)
    assert [answer.error_kind for answer in answers] == ["refused" if text == "evil" else None for text in texts]
    assert num_asked(endpoint, "evil") == 1
    assert len(endpoint.requests) <= len(texts) + 1  # and a harmless text, where no other record tells


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_key_that_is_denied_everything_stops_the_run_early(endpoint, make_engine, concurrency):
    endpoint.otherwise = error(403, None, "You have no access to this model")
    with pytest.raises(StoppedEarly, match=r"refuses the key .*status 403.*no access to this model") as stop:
        make_engine(limits={"concurrency": concurrency}).annotate(["x"] * 100)
    assert stop.value.answers == []
    assert "\n" not in str(stop.value)
    assert len(endpoint.requests) <= 2 * concurrency


def test_a_key_that_is_withdrawn_on_the_way_stops_the_run_with_the_answers_so_far(endpoint, make_engine):
    endpoint.script += [chat(), chat()]
    endpoint.otherwise = DENIED
    with pytest.raises(StoppedEarly, match="refuses the key") as stop:
        make_engine(limits=ONE_BY_ONE).annotate(["x"] * 100)
    assert len(stop.value.answers) == 2
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize(
    "fault",
    [
        MODERATED,
        error(400, "content_filter", "filtered"),
        chat(None, "content_filter"),
        error(400, None, "System role not supported"),
        error(403, None, "Blocked by the security policy of your organization"),
    ],
)
@pytest.mark.parametrize("num_records", [1, 100])
def test_an_endpoint_that_refuses_even_a_harmless_text_stops_the_run(endpoint, make_engine, fault, num_records):
    endpoint.otherwise = fault
    with pytest.raises(StoppedEarly, match=r"no answer, .* nor for a harmless text") as stop:
        make_engine(limits=ONE_BY_ONE).annotate(["x"] * num_records)
    assert stop.value.answers == []
    assert len(endpoint.requests) == 2


def test_a_corpus_of_refused_records_goes_on_to_its_end(endpoint, make_engine):
    endpoint.otherwise = only_for("evil", MODERATED)
    answers = make_engine(limits=ONE_BY_ONE).annotate(["evil"] * 35 + ["a"])
    assert [answer.error_kind for answer in answers] == ["refused"] * 35 + [None]
    assert len(endpoint.requests) == 36 + 4


def test_records_that_fail_each_time_do_not_stop_a_run_whose_endpoint_answers(endpoint, make_engine):
    endpoint.otherwise = only_for("evil", error(500))
    answers = make_engine(limits=ONE_BY_ONE).annotate(["evil"] * 25)
    assert {answer.error_kind for answer in answers} == {"passing"}


def test_a_record_over_which_the_endpoint_hangs_up_costs_that_record(endpoint, make_engine):
    endpoint.otherwise = only_for("evil", (HANGS_UP, b"", {}))
    answers = make_engine(limits=ONE_BY_ONE).annotate(["evil", "a", "evil", "b"])
    assert [answer.error_kind for answer in answers] == ["passing", None, "passing", None]


def test_an_endpoint_that_hangs_up_over_everything_stops_the_run(endpoint, make_engine):
    endpoint.otherwise = (HANGS_UP, b"", {})
    with pytest.raises(StoppedEarly, match="cannot be reached") as stop:
        make_engine(limits=ONE_BY_ONE).annotate(["x"] * 100)
    assert stop.value.answers == []
    assert len(endpoint.requests) == 2


def test_a_denied_record_is_asked_again_where_the_harmless_text_fails_for_the_moment(endpoint, make_engine):
    endpoint.script += [DENIED, error(503), chat()]
    (answer,) = make_engine(limits={"concurrency": 1}).annotate(["a"])
    assert answer.response == "Positive"


def test_a_key_that_may_not_list_models_may_still_be_good(endpoint, make_engine):
    endpoint.models_status = 403
    assert make_engine().annotate(["x"])[0].response == "Positive"


def test_a_harmless_text_counts_against_the_budget(endpoint, make_engine):
    endpoint.otherwise = only_for("evil", DENIED, chat(tokens=(60, 10)))
    engine = make_engine(limits={**ONE_BY_ONE, "budget_tokens": 200})
    assert engine.annotate(["evil"])[0].error_kind == "refused"
    with pytest.raises(StoppedEarly, match=r"the budget ends here: \d+ of 200 tokens"):
        engine.annotate(["a", "b"])


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_followed_or_said_with_the_address(endpoint, make_engine, status):
    there = endpoint.base_url.replace("/v1", "/v2")
    target = f"{there}/chat/completions"
    endpoint.otherwise = lambda request: chat() if "v2" in request["path"] else (status, b"", {"Location": target})
    if status == 307:
        assert make_engine().annotate(["x"])[0].response == "Positive"
        return
    with pytest.raises(StoppedEarly, match=f"annotator.base_url: .* redirects; set it to {there}"):
        make_engine(limits={"concurrency": 1}).annotate(["x"] * 3)


@pytest.mark.parametrize(
    "fault",
    [
        (404, b"<html><title>Not Found</title></html>", {"Content-Type": "text/html"}),
        (405, {"detail": "Method Not Allowed"}, {}),
        {"error": "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"},
    ],
)
def test_an_address_without_an_api_is_not_taken_for_a_missing_model(endpoint, make_engine, fault):
    endpoint.otherwise = fault
    with pytest.raises(StoppedEarly, match=r"annotator.base_url: .* no such address; .*/v1"):
        make_engine(limits={"concurrency": 1}).annotate(["x"] * 3)


@pytest.mark.parametrize(
    "fault",
    [
        error(400, "model_not_found", "The requested model does not exist"),
        error(400, None, "films/m is not a valid model ID"),
        error(404, None, "model 'm' not found, try pulling it first"),
    ],
)
def test_a_missing_model_is_said_whatever_the_status(endpoint, make_engine, fault):
    endpoint.otherwise = fault
    with pytest.raises(StoppedEarly, match=r"annotator.model: 'm' is not at") as stop:
        make_engine(limits=ONE_BY_ONE).annotate(["x"] * 3)
    assert stop.value.answers == []
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("where", ["list of models", "first record"])
def test_a_key_that_is_refused_with_status_400_is_the_keys_fault(endpoint, make_engine, where):
    told = {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}
    if where == "list of models":
        endpoint.models_status, endpoint.models = 400, [{"error": told}]
    endpoint.otherwise = (400, [{"error": told}], {})
    with pytest.raises(InputError, match=r"refuses the key in OPENAI_API_KEY \(status 400\): API key not valid"):
        make_engine(limits=ONE_BY_ONE).annotate(["x"] * 3)
    assert len(endpoint.requests) == (where == "first record")
