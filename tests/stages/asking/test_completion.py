"""Records that failed for a reason that passed are asked again by the next start, whatever happens in between."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from llambert import schema
from llambert.annotation.part_names import part_name
from llambert.annotation.responses import answers_version
from llambert.engines import StoppedEarly
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.repair import set_aside
from llambert.integrity.verify import verify
from llambert.stages.annotate import annotate as annotate_alone
from llambert.stages.asking.replica import AskPart
from llambert.stages.parse import parse
from llambert.stages.sample import sample
from tests.fixtures.annotate_runs import NUM_RECORDS, open_run
from tests.fixtures.annotate_runs import sample_and_annotate as annotate
from tests.fixtures.openai_endpoint import Endpoint, chat, error, only_for
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_encoder import save_tiny_encoder

pytest.importorskip("openai", reason="needs the openai extra")
NUM_SAMPLED = 21
FAULTS = {
    "Number 7.": error(500),
    "Number 8.": error(503),
    "Number 26.": (200, b"{", {}),
    "Number 41.": error(403, "moderation_blocked"),
}
FAILED_TEXTS = ("Number 7.", "Number 8.", "Number 26.")


def flaky(request):
    text = request["messages"][-1]["content"]
    return next((fault for number, fault in FAULTS.items() if number in text), chat())


def asked(endpoint: Endpoint) -> list[str]:
    """The numbers of the records asked about, in order."""
    contents = [request["messages"][-1]["content"] for request in endpoint.requests]
    return sorted(content.split("Number ")[1].split(".")[0] for content in contents if "Number " in content)


@pytest.fixture
def make_run(tmp_path, endpoint):
    encoder = save_tiny_encoder(tmp_path / "model")

    def make(num_records=NUM_RECORDS, limits=None, **parse_recipe):
        settings = {
            "engine": "openai", "mode": "generate", "prompt": "instruct", "base_url": endpoint.base_url,
            "num_records": num_records, "limits": {"max_attempts": 1, "concurrency": 4, **(limits or {})},
        }  # fmt: skip
        run = open_run(tmp_path, encoder, parse=parse_recipe, **settings)
        annotator = run.recipe.annotator.model_copy(update={"model": "m"})
        return type(run)(run.recipe.model_copy(update={"annotator": annotator}), run.task)

    return make


def answers(run) -> dict[str, str | None]:
    """Number of each record -> its response, or the kind of its error."""
    rows = joined(run).to_pylist()
    return {row["text"].split("Number ")[1].strip("."): row["response"] or row["error_kind"] for row in rows}


def responses_findings(run) -> list[str]:
    return [
        str(finding)
        for finding in verify(run)
        if finding.table in ("answers", "responses", "silver", "rejects", "sample")
    ]


def test_exactly_the_records_whose_failure_may_pass_are_asked_again(make_run, endpoint, capsys):
    run = make_run()
    endpoint.otherwise = flaky
    first = annotate(run, IN_PROCESS)
    assert (first.num_rejected, first.counts["num_passing"]) == ({"engine_error": 3, "refused": 1}, 3)
    order = list(answers(run))
    rejected = parse(run).num_rejected
    assert (rejected["engine_error"], rejected["refused"]) == (3, 1)
    assert "3 failed for a reason that may pass" in capsys.readouterr().out

    endpoint.requests.clear()
    endpoint.otherwise = chat()
    second = annotate(run, IN_PROCESS)
    assert asked(endpoint) == ["26", "7", "8"]
    assert (second.num_in, second.num_rejected, second.counts["num_passing"]) == (first.num_in, {"refused": 1}, 0)
    assert second.counts["num_prompt_tokens"] == first.counts["num_prompt_tokens"] + 3 * 20
    assert answers_version(second) != answers_version(first)
    assert list(answers(run)) == order
    assert set(answers(run).values()) == {"Positive", "refused"}
    assert responses_findings(run) == []

    parsed = parse(run)
    assert parsed.num_rejected == {"refused": 1}
    texts = run.table("silver").read([schema.TEXT])[schema.TEXT].to_pylist()
    assert len(texts) == len(set(texts)) == first.num_in - 1
    assert all(any(number in text for text in texts) for number in FAILED_TEXTS)
    assert run.table("silver").part_names() == [part.name for part in parsed.parts]
    assert responses_findings(run) == []

    endpoint.requests.clear()
    assert (annotate(run, IN_PROCESS), parse(run)) == (second, parsed)
    assert endpoint.requests == []


def test_records_that_fail_again_are_asked_until_they_are_answered(make_run, endpoint):
    run = make_run()
    endpoint.otherwise = flaky
    annotate(run, IN_PROCESS)
    endpoint.otherwise = only_for("Number 26.", error(500))
    manifest = annotate(run, IN_PROCESS)
    assert manifest.counts["num_passing"] == 1
    endpoint.requests.clear()
    assert annotate(run, IN_PROCESS).counts["num_passing"] == 1
    assert asked(endpoint) == ["26"]
    endpoint.otherwise = only_for("Number 26.", error(400, "content_filter"))  # final, if no answer
    manifest = annotate(run, IN_PROCESS)
    assert (manifest.counts["num_passing"], manifest.num_rejected) == (0, {"refused": 2})
    assert parse(run).num_rejected == {"refused": 2}
    endpoint.requests.clear()
    annotate(run, IN_PROCESS)
    assert endpoint.requests == []


@pytest.mark.parametrize("fault", ["server off", "no key", "budget"])
def test_a_complete_table_stays_complete_where_nothing_can_be_asked_again(
    make_run, endpoint, capsys, monkeypatch, fault
):
    run = make_run()
    endpoint.otherwise = flaky
    first = annotate(run, IN_PROCESS)
    if fault == "server off":
        endpoint.models_status = 401
    elif fault == "no key":
        monkeypatch.setattr("llambert.stages.asking.replica.create_engine", lambda *_: no_engine())
    else:
        run = make_run(limits={"budget_tokens": 1})
    endpoint.otherwise = chat()
    assert annotate(run, IN_PROCESS) == first
    assert "not all records that failed before (3) could be asked again" in capsys.readouterr().out
    assert annotate(make_run(), IN_PROCESS).counts["num_passing"] == (3 if fault != "budget" else 0)


def no_engine():
    from llambert.errors import InputError

    raise InputError("no key")


def test_a_larger_sample_asks_what_is_new_and_what_had_failed(make_run, endpoint):
    endpoint.otherwise = flaky
    small = make_run(num_records=NUM_SAMPLED)
    num_failed = annotate(small, IN_PROCESS).counts["num_passing"]
    endpoint.otherwise = chat()
    endpoint.requests.clear()
    run = make_run()
    manifest = annotate(run, IN_PROCESS)
    assert (manifest.counts["num_passing"], manifest.counts["num_found"]) == (0, NUM_SAMPLED - num_failed)
    assert len(endpoint.requests) == manifest.num_in - NUM_SAMPLED + num_failed
    parse(run)
    assert responses_findings(run) == []


def test_a_smaller_sample_has_the_failures_inside_it_alone(make_run, endpoint):
    endpoint.otherwise = flaky
    annotate(make_run(), IN_PROCESS)
    endpoint.otherwise = chat()
    endpoint.requests.clear()
    small = make_run(num_records=NUM_SAMPLED)
    annotate(small, IN_PROCESS)
    inside = [number for number in answers(small) if f"Number {number}." in FAILED_TEXTS]
    assert asked(endpoint) == sorted(inside)
    annotate(make_run(), IN_PROCESS)
    assert asked(endpoint) == ["26", "7", "8"]
    parse(small)
    assert responses_findings(small) == []


def test_a_question_that_two_records_put_is_asked_once(make_run, endpoint):
    run = make_run(num_records=NUM_SAMPLED)
    table = run.table("sample")
    rows = pa.table({"record_id": ["a", "b", "c"], "text": ["same", "other", "same"], "split": ["all"] * 3})
    table.complete("sample", [table.commit_part(part_name(0, 3), rows.cast(schema.SAMPLE))])
    endpoint.otherwise = chat()
    manifest = annotate_alone(run, IN_PROCESS)
    assert (len(endpoint.requests), manifest.num_in) == (2, 3)
    assert joined(run)[schema.RESPONSE].to_pylist() == ["Positive"] * 3


def test_answers_that_were_committed_before_a_kill_are_not_asked_for_again(make_run, endpoint, monkeypatch):
    run = make_run()
    endpoint.otherwise = flaky
    first = annotate(run, IN_PROCESS)
    endpoint.otherwise = chat()
    commit = run.table("responses").__class__.write_manifest

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.table("responses").__class__, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        annotate(run, IN_PROCESS)
    monkeypatch.setattr(run.table("responses").__class__, "write_manifest", commit)
    assert run.table("responses").require_manifest() == first
    endpoint.requests.clear()
    assert annotate(run, IN_PROCESS).counts["num_passing"] == 0
    assert endpoint.requests == []
    assert set(answers(run).values()) == {"Positive", "refused"}


def test_of_two_drivers_that_ask_the_same_the_first_writer_wins(make_run, endpoint):
    run = make_run()
    sample(run)
    unit = {"ranks": [[0, 8]]}
    overtaking: list[threading.Thread] = []

    def overtaken(request):
        """Answer once another driver has asked and stored as many."""
        with endpoint.lock:
            if not overtaking:
                endpoint.otherwise = chat("Positive")
                overtaking.append(threading.Thread(target=AskPart(run), args=(unit,)))
                overtaking[0].start()
        overtaking[0].join()
        return chat("Negative")

    late = AskPart(run)
    endpoint.otherwise = overtaken
    late(unit)
    assert len(run.table("answers").part_names()) == 1
    annotate(run, IN_PROCESS)
    assert set(joined(run).slice(0, 8)[schema.RESPONSE].to_pylist()) == {"Positive"}
    parse(run)
    assert responses_findings(run) == []


def test_the_answers_so_far_are_kept_where_the_engine_stops_early(make_run, endpoint):
    run = make_run(limits={"concurrency": 1})
    sample(run)
    endpoint.script += [chat(), error(401)]
    with pytest.raises(StoppedEarly):
        annotate(run, IN_PROCESS)
    endpoint.requests.clear()
    endpoint.otherwise = chat()
    manifest = annotate(run, IN_PROCESS)
    assert len(endpoint.requests) == manifest.num_in - 1


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_damaged_answers_are_set_aside_and_asked_for_again(make_run, endpoint, damage):
    run = make_run()
    endpoint.otherwise = chat()
    manifest = annotate(run, IN_PROCESS)
    parse(run)
    table = run.table("answers")
    name = table.part_names()[1]
    num_lost = table.committed_part(name).num_rows
    path = Path(table.path(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.unlink() if damage == "deleted" else path.write_bytes(bytes(content))
    found = verify(run)
    assert {(finding.table, finding.part) for finding in found if finding.table == "answers"} == {("answers", name)}
    set_aside(run, found)
    endpoint.requests.clear()
    assert annotate(run, IN_PROCESS).num_in == manifest.num_in
    assert 1 <= len(endpoint.requests) == num_lost < manifest.num_in
    parse(run)
    assert responses_findings(run) == []


@pytest.mark.slow
def test_through_ray_a_killed_start_and_the_next_ask_each_failed_record_until_it_is_answered(
    make_run, endpoint, tmp_path
):
    run = make_run()
    endpoint.otherwise = flaky
    annotate(run)
    ray.shutdown()
    endpoint.requests.clear()
    endpoint.otherwise = 30.0  # the next start waits for its answers, and is killed
    (tmp_path / "run.json").write_text(json.dumps(run.recipe.model_dump(mode="json")))
    program = (
        "import sys, json\nfrom llambert.recipe import Recipe\nfrom llambert.run import Run\n"
        "from llambert.tasks import load_task\nfrom llambert.stages.annotate import annotate\n"
        "recipe = Recipe.model_validate_json(open(sys.argv[1]).read())\nannotate(Run(recipe, load_task(recipe.task)))\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run.json")])
    try:
        while len(endpoint.requests) < 3:
            assert driver.poll() is None
            time.sleep(0.1)
    finally:
        driver.kill()
        driver.wait()
    endpoint.requests.clear()
    endpoint.otherwise = chat()
    manifest = annotate(run, IN_PROCESS)
    ray.shutdown()
    assert asked(endpoint) == ["26", "7", "8"]
    assert manifest.counts["num_passing"] == 0
    parse(run)
    assert responses_findings(run) == []
    endpoint.requests.clear()
    annotate(run)
    assert endpoint.requests == []
    assert not ray.is_initialized()
