"""Records that failed for a reason that passed are asked again by the next start, whatever happens in between."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from llambert import schema
from llambert.annotation.responses import AMENDMENTS, iter_answers
from llambert.engines import StoppedEarly
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.repair import set_aside
from llambert.integrity.verify import verify
from llambert.stages import annotate as annotate_stage
from llambert.stages.annotate import AnnotatePart
from llambert.stages.parse import parse
from tests.fixtures.annotate_runs import NUM_RECORDS, open_run
from tests.fixtures.annotate_runs import sample_and_annotate as annotate
from tests.fixtures.openai_endpoint import Endpoint, chat, error, only_for
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
    columns = [schema.TEXT, schema.RESPONSE, schema.ERROR_KIND]
    rows = [row for _, part in iter_answers(run.table("responses"), columns) for row in part.to_pylist()]
    return {row["text"].split("Number ")[1].strip("."): row["response"] or row["error_kind"] for row in rows}


def responses_findings(run) -> list[str]:
    return [str(finding) for finding in verify(run) if finding.table in ("responses", "silver", "rejects", "sample")]


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
    assert [part.name for part in second.parts] == [part.name for part in first.parts]
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
        monkeypatch.setattr(annotate_stage, "create_engine", lambda *_: no_engine())
    else:
        run = make_run(limits={"budget_tokens": 1})
    endpoint.otherwise = chat()
    assert annotate(run, IN_PROCESS) == first
    assert "not all records that failed before (3) could be asked again" in capsys.readouterr().out
    assert annotate(make_run(), IN_PROCESS).counts["num_passing"] == (3 if fault != "budget" else 0)


def test_the_first_answers_complete_the_table_where_the_rest_cannot_be_asked_again(make_run, endpoint, capsys):
    endpoint.otherwise = flaky
    run = make_run()
    whole = next(part.name for part in annotate(run, IN_PROCESS).parts if not part.counts["num_passing"])
    responses = run.table("responses")
    for name in ("manifest.json", whole):  # as a kill before them leaves the table
        responses.filesystem.rm_file(responses.path(name))

    def denied(request):
        return error(401) if any(text in str(request["messages"]) for text in FAILED_TEXTS) else chat()

    endpoint.otherwise = denied
    assert annotate(run, IN_PROCESS).num_in == len(answers(run))
    assert "could be asked again" in capsys.readouterr().out


def no_engine():
    from llambert.errors import InputError

    raise InputError("no key")


def test_an_incomplete_table_is_completed_and_asked_again_in_one_start(make_run, endpoint):
    endpoint.otherwise = flaky
    small = make_run(num_records=NUM_SAMPLED)
    num_failed = annotate(small, IN_PROCESS).counts["num_passing"]
    endpoint.otherwise = chat()
    endpoint.requests.clear()
    run = make_run()
    manifest = annotate(run, IN_PROCESS)
    assert manifest.counts["num_passing"] == 0
    assert len(endpoint.requests) == manifest.num_in - NUM_SAMPLED + num_failed
    parse(run)
    assert responses_findings(run) == []


def test_records_beyond_the_recipes_sample_are_not_asked_again(make_run, endpoint):
    endpoint.otherwise = flaky
    annotate(make_run(), IN_PROCESS)
    endpoint.otherwise = chat()
    endpoint.requests.clear()
    small = make_run(num_records=NUM_SAMPLED)
    inside = [number for number, answer in list(answers(small).items())[:NUM_SAMPLED] if answer == "passing"]
    annotate(small, IN_PROCESS)
    assert asked(endpoint) == sorted(inside)
    annotate(make_run(), IN_PROCESS)
    assert asked(endpoint) == ["26", "7", "8"]


def test_a_smaller_sample_whose_records_are_all_answered_has_its_table(make_run, endpoint):
    endpoint.otherwise = chat()
    annotate(make_run(), IN_PROCESS)
    endpoint.requests.clear()
    small = make_run(num_records=NUM_SAMPLED)
    annotate(small, IN_PROCESS)
    parse(small)
    assert endpoint.requests == []
    assert responses_findings(small) == []


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


def test_of_two_drivers_that_ask_again_the_first_writer_wins_each_record_once(make_run, endpoint):
    run = make_run()
    endpoint.otherwise = flaky
    annotate(run, IN_PROCESS)
    names = [part.name for part in run.table("responses").require_manifest().parts]
    unit = {"again": names, "end": NUM_RECORDS}
    endpoint.requests.clear()
    overtaking: list[threading.Thread] = []

    def overtaken(request):
        """Answer once the late driver has asked for all three, and another driver has asked and stored as many."""
        while len(endpoint.requests) < len(FAILED_TEXTS):
            time.sleep(0.01)
        with endpoint.lock:
            if not overtaking:
                endpoint.otherwise = only_for("Number 26.", error(500), chat("Positive"))
                overtaking.append(threading.Thread(target=AnnotatePart(run), args=(unit,)))
                overtaking[0].start()
        overtaking[0].join()
        return chat("Negative")

    endpoint.otherwise = overtaken
    AnnotatePart(run)(unit)
    manifest = annotate(run, IN_PROCESS)
    parse(run)
    assert responses_findings(run) == []
    kinds = answers(run)
    assert (kinds["7"], kinds["8"]) == ("Positive", "Positive")  # the first writer's
    assert manifest.counts["num_passing"] == sum(kind == "passing" for kind in kinds.values())


def test_the_answers_so_far_are_kept_where_the_engine_stops_early(make_run, endpoint):
    run = make_run(limits={"concurrency": 1})
    endpoint.otherwise = flaky
    annotate(run, IN_PROCESS)
    endpoint.script += [chat(), error(401)]
    names = [part.name for part in run.table("responses").require_manifest().parts]
    with pytest.raises(StoppedEarly):
        AnnotatePart(run)({"again": names, "end": NUM_RECORDS})
    endpoint.requests.clear()
    endpoint.otherwise = chat()
    annotate(run, IN_PROCESS)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_damaged_answers_are_set_aside_and_asked_for_again(make_run, endpoint, damage):
    run = make_run()
    endpoint.otherwise = flaky
    annotate(run, IN_PROCESS)
    endpoint.otherwise = chat()
    annotate(run, IN_PROCESS)
    parse(run)
    table = run.table("responses")
    name = table.part_names(AMENDMENTS)[0]
    path = Path(table.path(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.unlink() if damage == "deleted" else path.write_bytes(bytes(content))
    found = [finding for finding in verify(run) if finding.table == "responses"]
    assert {finding.part for finding in found} == {name}
    set_aside(run, found)
    endpoint.requests.clear()
    annotate(run, IN_PROCESS)
    assert 1 <= len(endpoint.requests) <= 2
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
