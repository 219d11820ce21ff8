"""The annotate stage on small tables: sample, responses, continuing, and what it must not read."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from tiny_llm import save_tiny_llm

from llambert import schema
from llambert.engines import Answer, StoppedEarly
from llambert.recipe import AnnotatorRecipe, ClassifierRecipe, CorpusRecipe, Recipe
from llambert.reference import resolve
from llambert.run import Run
from llambert.run_directory import Manifest, TableDirectory
from llambert.sampling import sampling_hashes
from llambert.stages.annotate import AnnotatePart, _cover, annotate, draw_sample
from llambert.tasks import load_task

NUM_RECORDS = 60
TEXTS = ["A moving, beautifully acted film.", "A dull mess.", "Funny and warm.", "It never comes alive."]


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory):
    return save_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def make_run(tmp_path, tiny_llm):
    """A run whose corpus of 60 records in 3 parts is complete; with the keyword arguments of an annotator."""

    def make(**annotator) -> Run:
        source = tmp_path / "corpus.csv"
        source.write_text("text\n")
        settings = {"mode": "score", "dtype": "float32", "records_per_part": 8, "prompt": "completion", **annotator}
        recipe = Recipe(
            name="test",
            task="reviews",
            corpus=CorpusRecipe(path=str(source)),
            annotator=AnnotatorRecipe(model=str(tiny_llm), **settings),
            classifier=ClassifierRecipe(model=str(tiny_llm)),
            storage=str(tmp_path / "run"),
        )
        run = Run(recipe, load_task("reviews"))
        if run.table("corpus").read_manifest() is None:
            fill_corpus(run)
        return run

    return make


def fill_corpus(run: Run) -> None:
    ids = [f"r{i:03d}" for i in range(NUM_RECORDS)]
    # No gold column at all: a stage that reads it fails.
    corpus = TableDirectory(run.table("corpus").uri)
    texts = [f"{TEXTS[i % 4]} Number {i}." for i in range(NUM_RECORDS)]
    table = pa.table({schema.RECORD_ID: ids, schema.TEXT: texts, schema.SPLIT: ["all"] * NUM_RECORDS})
    parts = [corpus.commit_part(f"part-{n}.parquet", table.slice(20 * n, 20)) for n in range(3)]
    corpus.write_manifest(manifest("ingest", parts))
    duplicates = run.table("duplicates")
    rows = pa.table({schema.RECORD_ID: ids[1:60:12], schema.DUPLICATE_OF: ["r000"] * 5}, schema=schema.DUPLICATES)
    duplicates.write_manifest(manifest("duplicates", [duplicates.commit_part("part-0.parquet", rows)]))


def manifest(stage: str, parts: list) -> Manifest:
    num = sum(part.num_rows for part in parts)
    return Manifest(stage=stage, fingerprint="f", num_in=num, num_kept=num, wall_seconds=0.0, parts=parts)


def eligible_in_hash_order() -> list[str]:
    ids = [f"r{i:03d}" for i in range(NUM_RECORDS) if (i - 1) % 12 or i == 0]
    return [ids[i] for i in np.argsort(sampling_hashes(ids, 0))]


def test_sample_holds_the_smallest_hashes_in_order_without_duplicates(make_run):
    run = make_run(num_records=21)
    sampled = draw_sample(run)
    table = run.table("sample").read()
    assert table[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[:21]
    assert [part.name for part in sampled.parts] == [
        "part-000000000-000000008.parquet",
        "part-000000008-000000016.parquet",
        "part-000000016-000000021.parquet",
    ]
    for record_id, text in zip(*table.to_pydict().values(), strict=True):
        assert text.endswith(f"Number {int(record_id[1:])}.")  # each id with its own text
    assert sampled.num_rejected == {"duplicate": 5, "not_sampled": NUM_RECORDS - 5 - 21}
    assert sampled.counts["num_short"] == 0


def test_sample_larger_than_the_corpus_takes_all_and_says_how_many_are_missing(make_run):
    sampled = draw_sample(make_run(num_records=100))
    assert sampled.num_kept == 55
    assert sampled.counts["num_short"] == 45


def test_sample_of_many_windows_is_the_same(make_run, monkeypatch):
    monkeypatch.setattr("llambert.stages.annotate._MIN_PARTS_PER_WINDOW", 1)
    run = make_run(num_records=50)
    draw_sample(run)
    assert run.table("sample").read([schema.RECORD_ID])[0].to_pylist() == eligible_in_hash_order()[:50]


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

    assert _cover([name(ranks) for ranks in committed], num, 8) == ([name(ranks) for ranks in used], missing)


def test_worker_commits_the_responses_of_its_ranks_with_counts(make_run):
    run = make_run(num_records=21)
    draw_sample(run)
    outcome = AnnotatePart(run)({"start": 13, "end": 21})  # across two parts of the sample
    (part,) = outcome.parts
    table = run.table("responses").read_part(part.name)
    assert part.name == "part-000000013-000000021.parquet"
    assert table.schema == schema.RESPONSES
    assert table[schema.RECORD_ID].to_pylist() == eligible_in_hash_order()[13:21]
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
    draw_sample(run)

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


@pytest.mark.slow
def test_stage_answers_every_sampled_record_and_a_larger_sample_keeps_the_parts(make_run):
    run = make_run(num_records=13)
    first = annotate(run)
    assert (first.num_in, first.num_kept, first.num_rejected) == (13, 13, {})
    assert first.counts["num_records"] == 13
    assert first.busy_seconds > 0
    stored = contents(run)

    larger = make_run(num_records=30)
    second = annotate(larger)
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
    assert annotate(make_run(num_records=13)) == second
    assert annotate(larger) == second


@pytest.mark.slow
def test_stage_goes_on_after_a_part_is_lost_with_the_same_answers(make_run):
    run = make_run(num_records=20)
    annotate(run)
    before = run.table("responses").read()
    responses = run.table("responses")
    responses.filesystem.rm(responses.path("manifest.json"))
    responses.filesystem.rm(responses.path("part-000000008-000000016.parquet"))
    again = annotate(run)
    after = run.table("responses").read()
    assert again.num_in == 20
    assert after.drop_columns([schema.LABEL_PROBABILITIES]) == before.drop_columns([schema.LABEL_PROBABILITIES])
    np.testing.assert_allclose(probabilities(after), probabilities(before), atol=1e-4)


def contents(run: Run) -> dict[str, str]:
    table = run.table("responses")
    read = table.filesystem.cat_file
    return {name: hashlib.sha256(read(table.path(name))).hexdigest() for name in table.part_names()}


def probabilities(table: pa.Table) -> np.ndarray:
    rows = table[schema.LABEL_PROBABILITIES].to_pylist()
    return np.array([[entry["probability"] for entry in row] for row in rows])


def test_missing_model_is_one_line_before_anything_is_written(make_run):
    run = make_run(num_records=8)
    missing = run.recipe.annotator.model_copy(update={"model": "package:llambert/no-such.gguf"})
    broken = Run(run.recipe.model_copy(update={"annotator": missing}), run.task)
    with pytest.raises(ValueError, match=r"no-such\.gguf"):
        annotate(broken)
    with pytest.raises(ValueError, match=r"no 'no-such\.gguf'"):
        resolve("package:llambert/no-such.gguf")
