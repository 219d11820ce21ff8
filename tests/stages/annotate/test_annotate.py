"""The annotate stage on small tables: responses, continuing, calibration texts, metrics."""

import hashlib

import numpy as np
import pytest
import ray

from llambert import schema
from llambert.annotation.calibration import CONTENT_FREE_TEXTS, contextual_calibration, normalise
from llambert.engines import Answer, StoppedEarly
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.run import Run
from llambert.stages.annotate import AnnotatePart
from llambert.stages.annotate import annotate as annotate_alone
from llambert.stages.annotate.stored_answers import select_parts
from llambert.stages.parse import parse
from llambert.stages.sample import sample
from llambert.storage.reference import resolve
from tests.fixtures.annotate_runs import eligible_in_hash_order, probabilities
from tests.fixtures.annotate_runs import sample_and_annotate as annotate
from tests.fixtures.ray_metrics import scrape_when


@pytest.mark.parametrize(
    ("committed", "num", "used", "missing"),
    [
        ([], 20, [], [(0, 8), (8, 16), (16, 20)]),
        ([(0, 8), (16, 20)], 20, [(0, 8), (16, 20)], [(8, 16)]),
        ([(0, 8), (8, 13)], 30, [(0, 8), (8, 13)], [(13, 16), (16, 24), (24, 30)]),
        # Two drivers with different num_records: what overlaps counts once.
        ([(0, 8), (8, 13), (8, 16)], 16, [(0, 8), (8, 16)], []),
        ([(0, 8), (8, 13), (13, 16), (8, 16)], 16, [(0, 8), (8, 16)], []),
        ([(0, 10), (8, 16)], 16, [(0, 10)], [(10, 16)]),
        ([(0, 8), (8, 16)], 12, [(0, 8), (8, 16)], []),
    ],
)
def test_each_rank_is_covered_once(committed, num, used, missing):
    def name(ranks):
        return "part-{:09d}-{:09d}.parquet".format(*ranks)

    assert select_parts([name(ranks) for ranks in committed], num, 8) == ([name(ranks) for ranks in used], missing)


def test_worker_commits_the_responses_of_its_ranks_with_counts(make_run):
    run = make_run(num_records=21, gold=True)
    sample(run)
    outcome = AnnotatePart(run)({"start": 13, "end": 21})  # across two parts of the sample
    (part,) = outcome.parts
    table = run.table("responses").read_part(part.name)
    assert part.name == "part-000000013-000000021.parquet"
    assert table.schema == schema.RESPONSES
    assert table[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[13:21]
    assert table.select(schema.SAMPLE.names).to_pylist() == run.table("sample").read().slice(13).to_pylist()
    assert {key: part.counts[key] for key in ("num_records", "num_errors", "num_truncated")} == {
        "num_records": 8,
        "num_errors": 0,
        "num_truncated": 0,
    }
    assert part.counts["num_prompt_tokens"] == sum(table[schema.NUM_PROMPT_TOKENS].to_pylist()) > 0
    for text, prompt in zip(table[schema.TEXT].to_pylist(), table[schema.PROMPT].to_pylist(), strict=True):
        assert text in prompt


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

    monkeypatch.setattr("llambert.stages.annotate.create_engine", create)
    with pytest.raises(StoppedEarly, match="budget used up"):
        AnnotatePart(run, (70, 7))({"start": 8, "end": 16})
    assert paid_before == [(70, 7)]
    assert run.table("responses").part_names() == ["part-000000008-000000011.parquet"]
    ids = run.table("responses").read_part("part-000000008-000000011.parquet")[schema.RECORD_ID].to_pylist()
    assert ids == eligible_in_hash_order()[8:11]


def test_stage_answers_every_sampled_record_and_a_larger_sample_keeps_the_parts(make_run):
    run = make_run(num_records=13)
    first = annotate(run, IN_PROCESS)
    assert (first.num_in, first.num_kept, first.num_rejected) == (13, 13, {})
    assert first.counts["num_records"] == 13
    assert first.busy_seconds > 0
    stored = contents(run)

    larger = make_run(num_records=30)
    second = annotate(larger, IN_PROCESS)
    assert [part.name for part in second.parts] == [
        "part-000000000-000000008.parquet",
        "part-000000008-000000013.parquet",
        "part-000000013-000000016.parquet",
        "part-000000016-000000024.parquet",
        "part-000000024-000000030.parquet",
    ]
    assert stored.items() <= contents(larger).items()  # nothing asked again
    responses = larger.table("responses").read()
    assert responses[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[:30]
    assert second.model_identity == larger.model_identities["annotator"]

    # Smaller or equal: complete, whoever asks; Ray is not needed to find that out.
    assert annotate(make_run(num_records=13), IN_PROCESS) == second
    assert annotate(larger, IN_PROCESS) == second


def test_stage_goes_on_after_a_part_is_lost_with_the_same_answers(make_run):
    run = make_run(num_records=20)
    annotate(run, IN_PROCESS)
    before = run.table("responses").read()
    responses = run.table("responses")
    responses.filesystem.rm(responses.path("manifest.json"))
    responses.filesystem.rm(responses.path("part-000000008-000000016.parquet"))
    again = annotate(run, IN_PROCESS)
    after = run.table("responses").read()
    assert again.num_in == 20
    assert after.drop_columns([schema.LABEL_PROBABILITIES]) == before.drop_columns([schema.LABEL_PROBABILITIES])
    np.testing.assert_allclose(probabilities(after), probabilities(before), atol=1e-4)


def contents(run: Run) -> dict[str, str]:
    table = run.table("responses")
    read = table.filesystem.cat_file
    return {name: hashlib.sha256(read(table.path(name))).hexdigest() for name in table.part_names()}


def test_missing_model_is_one_line_before_anything_is_written(make_run):
    run = make_run(num_records=8)
    missing = run.recipe.annotator.model_copy(update={"model": "package:llambert/no-such.gguf"})
    broken = Run(run.recipe.model_copy(update={"annotator": missing}), run.task)
    with pytest.raises(ValueError, match=r"no-such\.gguf"):
        annotate_alone(broken, IN_PROCESS)
    with pytest.raises(ValueError, match=r"no 'no-such\.gguf'"):
        resolve("package:llambert/no-such.gguf")


def test_the_sample_must_be_there_unless_every_answer_is(make_run):
    with pytest.raises(InputError, match=r"sample/\w+ is not complete"):
        annotate_alone(make_run(num_records=8), IN_PROCESS)
    complete = make_run(num_records=30)
    manifest = complete.table("responses").complete("annotate", [], num_kept=30)
    smaller = make_run(num_records=20)  # never sampled
    assert annotate_alone(smaller, IN_PROCESS) == manifest
    assert smaller.table("sample").read_manifest() is None


def test_texts_without_content_are_asked_about_once_and_correct_the_prior(make_run):
    plain = make_run(num_records=16)
    annotate(plain, IN_PROCESS)
    stored = contents(plain)
    run = make_run(num_records=16, parse={"prior_correction": "contextual"})
    manifest = annotate(run, IN_PROCESS)  # the responses are there: three questions more
    assert contents(run) == stored
    table = run.table("content_free").read()
    assert tuple(table[schema.TEXT].to_pylist()) == CONTENT_FREE_TEXTS
    assert run.table("content_free").require_manifest().num_in == len(CONTENT_FREE_TEXTS)
    ray.shutdown()
    assert annotate(run) == manifest
    assert not ray.is_initialized()

    silver = parse(run)
    correction = contextual_calibration(probabilities(table))
    expected = correction.apply(normalise(probabilities(run.table("responses").read())))
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
