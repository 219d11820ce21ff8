"""The annotate stage on small tables: responses, continuing, calibration texts, metrics."""

import hashlib
import shutil

import numpy as np
import pytest
import ray

from llambert import schema
from llambert.annotation.calibration import CONTENT_FREE_TEXTS, contextual_calibration, normalise
from llambert.engines import Answer, StoppedEarly
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.run import Run
from llambert.stages.annotate import annotate as annotate_alone
from llambert.stages.asking.ordered_questions import questions_of
from llambert.stages.asking.replica import AskPart
from llambert.stages.parse import parse
from llambert.stages.sample import sample
from llambert.storage.reference import resolve
from tests.fixtures.annotate_runs import eligible_in_hash_order, probabilities
from tests.fixtures.annotate_runs import sample_and_annotate as annotate
from tests.fixtures.ray_metrics import scrape_when
from tests.fixtures.stored_responses import joined


def stored(run: Run) -> dict[str, str]:
    """Part of the answer store -> its content."""
    table = run.table("answers")
    read = table.filesystem.cat_file
    return {name: hashlib.sha256(read(table.path(name))).hexdigest() for name in table.part_names()}


def num_asked(run: Run, before: dict[str, str]) -> int:
    """How many answers the store has got since ``before``."""
    table = run.table("answers")
    return sum(table.committed_part(name).num_rows for name in stored(run) if name not in before)


def test_worker_commits_the_answers_about_its_ranks_with_counts(make_run):
    run = make_run(num_records=21, gold=True)
    sample(run)
    outcome = AskPart(run)({"ranks": [[3, 4], [13, 21]]})  # across two parts of the sample
    (part,) = outcome.parts
    table = run.table("answers").read_part(part.name)
    assert table.schema == schema.ANSWERS
    assert outcome.measures["num_done"] == table.num_rows == 9
    assert {key: part.counts[key] for key in ("num_records", "num_errors", "num_truncated")} == {
        "num_records": 9,
        "num_errors": 0,
        "num_truncated": 0,
    }
    assert part.counts["num_prompt_tokens"] == sum(table[schema.NUM_PROMPT_TOKENS].to_pylist()) > 0
    texts = run.table("sample").read()[schema.TEXT].to_pylist()
    for text, prompt in zip([texts[3], *texts[13:21]], table[schema.PROMPT].to_pylist(), strict=True):
        assert text in prompt
    assert table[schema.KEY].to_pylist() == questions_of(run).keys([texts[3], *texts[13:21]]).to_pylist()


def test_worker_leaves_out_what_was_asked_since_its_unit_was_made(make_run):
    run = make_run(num_records=16)
    sample(run)
    early, late = AskPart(run), AskPart(run)
    early({"ranks": [[0, 8]]})
    before = stored(run)
    outcome = late({"ranks": [[4, 12]]})
    assert (outcome.parts[0].num_rows, outcome.measures["num_done"]) == (4, 8)
    assert num_asked(run, before) == 4
    assert late({"ranks": [[0, 12]]}).parts == []


def test_engine_that_stops_early_leaves_the_answers_it_gave(make_run, monkeypatch):
    run = make_run(num_records=21)
    sample(run)

    class Budgeted:
        """Answers three records and has no money left then."""

        def annotate(self, texts):
            answers = [Answer(prompt=text, response="positive", finish_reason="stop") for text in texts[:3]]
            raise StoppedEarly("budget used up", answers)

    paid_before = []

    def create(annotator, task, num_tokens_before):
        paid_before.append(num_tokens_before)
        return Budgeted()

    monkeypatch.setattr("llambert.stages.asking.replica.create_engine", create)
    with pytest.raises(StoppedEarly, match="budget used up"):
        AskPart(run, num_tokens_before=(70, 7))({"ranks": [[8, 16]]})
    assert paid_before == [(70, 7)]
    (name,) = run.table("answers").part_names()
    texts = run.table("sample").read()[schema.TEXT].to_pylist()
    keys = run.table("answers").read_part(name)[schema.KEY].to_pylist()
    assert keys == questions_of(run).keys(texts[8:11]).to_pylist()


def test_stage_answers_every_sampled_record_and_other_samples_ask_what_is_new(make_run):
    run = make_run(num_records=13)
    first = annotate(run, IN_PROCESS)
    assert (first.num_in, first.num_kept, first.num_rejected) == (13, 13, {})
    assert (first.counts["num_records"], first.counts["num_found"]) == (13, 0)
    assert first.busy_seconds > 0
    before = stored(run)

    larger = make_run(num_records=30)
    second = annotate(larger, IN_PROCESS)
    assert (second.num_in, second.counts["num_found"]) == (30, 13)
    assert before.items() <= stored(larger).items()  # nothing asked again
    assert num_asked(larger, before) == 17
    assert joined(larger)[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[:30]
    assert second.model_identity == larger.model_identities["annotator"]
    assert joined(run).slice(0, 13).to_pylist() == joined(larger).slice(0, 13).to_pylist()

    before = stored(run)
    assert annotate(make_run(num_records=20), IN_PROCESS).counts["num_found"] == 20
    assert annotate(larger, IN_PROCESS) == second
    assert stored(run) == before


def test_where_every_answer_is_stored_no_engine_is_made_and_ray_is_not_started(make_run, monkeypatch):
    annotate(make_run(num_records=30), IN_PROCESS)
    monkeypatch.setattr("llambert.stages.asking.replica.create_engine", None)
    ray.shutdown()
    assert annotate(make_run(num_records=20)).num_in == 20
    other = make_run(num_records=20, parse={"min_confidence": 0.6}, records_per_part=5)
    assert annotate(other).counts["num_found"] == 20
    assert not ray.is_initialized()


def test_two_runs_that_share_a_store_ask_each_question_once(make_run, tmp_path):
    first = make_run(num_records=20, answer_store=str(tmp_path / "store"))
    annotate(first, IN_PROCESS)
    before = stored(first)
    moved = first.recipe.model_copy(update={"storage": str(tmp_path / "other")})
    second = Run(moved, first.task)
    for name in ("corpus", "duplicates"):
        shutil.copytree(tmp_path / "run" / name, tmp_path / "other" / name)
    assert annotate(second, IN_PROCESS).num_in == 20
    assert stored(second) == before
    assert (tmp_path / "store" / first.table("answers").fingerprint / "asked.json").exists()


@pytest.mark.parametrize(
    "changes",
    [{"mode": "choice"}, {"decoding": {"seed": 1}}, {"max_model_len": 100}, {"dtype": "bfloat16"}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_way_of_asking_has_answers_of_its_own(make_run, changes):
    run, other = make_run(num_records=8), make_run(num_records=8, **changes)
    assert run.table("answers").uri != other.table("answers").uri


def test_stage_goes_on_after_answers_are_lost_with_the_same_answers(make_run):
    run = make_run(num_records=20)
    annotate(run, IN_PROCESS)
    before = joined(run)
    answers, responses = run.table("answers"), run.table("responses")
    answers.filesystem.rm(answers.path(answers.part_names()[1]))
    responses.filesystem.rm(responses.path(), recursive=True)
    again = annotate(run, IN_PROCESS)
    after = joined(run)
    assert again.num_in == 20
    vary = [schema.LABEL_PROBABILITIES, schema.BUSY_SECONDS]
    assert after.drop_columns(vary) == before.drop_columns(vary)
    np.testing.assert_allclose(probabilities(after), probabilities(before), atol=1e-4)


def test_missing_model_is_one_line_before_anything_is_written(make_run):
    run = make_run(num_records=8)
    missing = run.recipe.annotator.model_copy(update={"model": "package:llambert/no-such.gguf"})
    broken = Run(run.recipe.model_copy(update={"annotator": missing}), run.task)
    with pytest.raises(ValueError, match=r"no-such\.gguf"):
        annotate_alone(broken, IN_PROCESS)
    with pytest.raises(ValueError, match=r"no 'no-such\.gguf'"):
        resolve("package:llambert/no-such.gguf")


def test_the_sample_must_be_there_unless_the_table_is(make_run):
    with pytest.raises(InputError, match=r"sample/\w+ is not complete"):
        annotate_alone(make_run(num_records=8), IN_PROCESS)
    complete = make_run(num_records=30)
    manifest = complete.table("responses").complete("annotate", [], num_kept=30)
    assert annotate_alone(complete, IN_PROCESS) == manifest


def test_texts_without_content_are_asked_about_once_and_correct_the_prior(make_run):
    plain = make_run(num_records=16)
    annotate(plain, IN_PROCESS)
    before = stored(plain)
    run = make_run(num_records=16, parse={"prior_correction": "contextual"})
    manifest = annotate(run, IN_PROCESS)  # the responses are there: three questions more
    assert before.items() <= stored(run).items()
    assert num_asked(run, before) == len(CONTENT_FREE_TEXTS)
    table = joined(run, "content_free")
    assert run.table("content_free").require_manifest().num_in == len(CONTENT_FREE_TEXTS)
    ray.shutdown()
    assert annotate(run) == manifest
    assert not ray.is_initialized()

    silver = parse(run)
    correction = contextual_calibration(probabilities(table))
    expected = correction.apply(normalise(probabilities(joined(run))))
    np.testing.assert_allclose(probabilities(run.table("silver").read()), expected, atol=1e-12)
    assert silver.measures["bias.positive"] == pytest.approx(correction.bias[0])


@pytest.mark.slow
def test_counts_are_ray_metrics_and_equal_the_manifests(make_run):
    run = make_run(num_records=40, max_replicas=2, min_replicas=2, cpus_per_replica=0.5)
    ray.shutdown()
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        manifest = annotate(run)
        exported = scrape_when(context.address_info["metrics_export_port"], "annotate", 40)
    finally:
        ray.shutdown()
    assert exported["records"] == manifest.counts["num_records"] == 40
    assert exported["prompt_tokens"] == manifest.counts["num_prompt_tokens"]
    assert exported["busy_seconds"] == pytest.approx(manifest.busy_seconds, abs=0.05)
    shares = {name: share for name, share in manifest.measures.items() if name.startswith("busy_share.")}
    assert 1 <= len(shares) <= 2
    assert all(0 < share <= 1.01 for share in shares.values())
    assert manifest.measures["tokens_per_second"] > manifest.measures["records_per_second"]
