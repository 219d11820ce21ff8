"""The label stage: one part in, one part out, every record once, whatever was killed before."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from llambert import schema
from llambert.classifier.inference import Classifier
from llambert.errors import Damaged, InputError
from llambert.execution import stage_progress
from llambert.integrity.verify import verify
from llambert.run import Run
from llambert.stages.label import LabelPart, label
from tests.fixtures.label_runs import ROWS_PER_PART, fill, filled_run, make_run
from tests.fixtures.noting_executor import NotingExecutor
from tests.fixtures.ray_metrics import scrape_when
from tests.fixtures.s3_server import running_server
from tests.fixtures.tiny_classifier import save_tiny_classifier, tiny_texts


@pytest.fixture
def executor():
    """The units done one after another in this process; what Ray adds is tested with Ray, below."""
    return NotingExecutor()


def rows_of(run: Run, table: str = "labels") -> list[dict]:
    return [row for part in run.table(table).iter_tables() for row in part.to_pylist()]


def expected_labels(run: Run, texts: list[str]) -> list[str | None]:
    return Classifier(run.table("checkpoint").uri, device="cpu").predict(texts).labels


def test_every_record_is_labelled_once_as_the_bare_classifier_labels_it(tmp_path, executor):
    run = filled_run(tmp_path, 50)
    manifest = label(run, executor)
    rows = rows_of(run)
    assert [row["record_id"] for row in rows] == [f"r{i:05d}" for i in range(50)]
    assert [row["label"] for row in rows] == expected_labels(run, tiny_texts(50))
    assert [part.name for part in manifest.parts] == [part.name for part in run.table("corpus").read_manifest().parts]
    assert (manifest.num_in, manifest.num_kept, manifest.num_rejected) == (50, 50, {})
    assert sum(manifest.labels[name] for name in ("positive", "negative")) == 50
    assert manifest.counts["num_tokens"] > 100
    assert manifest.busy_seconds > 0
    assert manifest.model_identity
    assert manifest.upstream == {key: run.fingerprints[key] for key in ("corpus", "checkpoint")}
    assert run.table("label_rejects").read_manifest().num_kept == 0


def test_the_labels_table_has_the_declared_schema_and_the_columns_asked_for(tmp_path, executor):
    run = filled_run(tmp_path, 25, keep=("year", "split"), probabilities=True)
    manifest = label(run, executor)
    stored = pq.read_schema(run.table("labels").path(manifest.parts[0].name)).remove_metadata()
    assert stored.names == ["record_id", "label", "score", "label_probabilities", "year", "split"]
    for field in schema.LABELS:
        assert stored.field(field.name) == field
    assert stored.field("label_probabilities").type == schema.PROBABILITIES
    assert stored.field("year").type == pa.int64()
    for row in rows_of(run):
        probabilities = {pair["category"]: pair["probability"] for pair in row["label_probabilities"]}
        assert list(probabilities) == ["positive", "negative"]
        assert max(probabilities, key=probabilities.get) == row["label"]
        assert probabilities[row["label"]] == pytest.approx(row["score"])
        assert row["year"] == 1990 + int(row["record_id"][1:]) % 30


def test_gold_labels_are_not_read(tmp_path, executor):
    without, having = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    encoder = save_tiny_classifier(tmp_path / "encoder")
    label(fill(without, tiny_texts(30), encoder, gold=False), executor)
    label(fill(having, tiny_texts(30), encoder, gold=True), executor)
    assert rows_of(without) == rows_of(having)


def test_gold_labels_pass_through_only_where_the_recipe_names_them(tmp_path, executor):
    run = make_run(tmp_path, keep=("gold_label",))
    label(fill(run, tiny_texts(5), tmp_path / "encoder", gold=True), executor)
    assert rows_of(run)[0]["gold_label"] == "positive"


def test_a_complete_table_is_left_alone(tmp_path, executor):
    run = filled_run(tmp_path, 25)
    first = label(run, executor)
    executor.units.clear()
    assert label(run, executor) == first
    assert executor.units == []


def test_a_start_after_a_kill_labels_what_is_not_committed_and_keeps_the_rest(tmp_path, executor):
    undisturbed = filled_run(tmp_path / "a", 70)
    label(undisturbed, executor)
    run = filled_run(tmp_path / "b", 70)
    labels = run.table("labels")
    first = LabelPart(run)
    first({"name": "part-00000-000001.parquet", "num_rows": ROWS_PER_PART})
    labels.write_progress(
        {
            "done": 20,
            "total": 70,
            "busy_seconds": 100.0,
            "wall_seconds": 200.0,
            "updated_at": "2026-01-01T00:00:00+00:00",
        }
    )
    executor.units.clear()
    manifest = label(run, executor)
    assert [unit["name"] for unit in executor.units] == [f"part-00000-{i:06d}.parquet" for i in (0, 2, 3)]
    assert manifest.busy_seconds > 100
    assert manifest.wall_seconds > 200
    assert manifest.parts == undisturbed.table("labels").read_manifest().parts


def test_progress_says_how_far_the_stage_is_while_it_works(tmp_path, executor, monkeypatch):
    run = filled_run(tmp_path, 50)
    seen = []
    executor.before_unit = lambda _: seen.append(run.table("labels").read_progress())
    monkeypatch.setattr(stage_progress, "WRITE_EVERY_S", 0.0)
    label(run, executor)
    assert [progress["done"] for progress in seen] == [0, 20, 40]
    assert {progress["total"] for progress in seen} == {50}
    assert run.table("labels").read_progress()["done"] == 50


def test_records_that_cannot_be_labelled_are_kept_with_their_reason(tmp_path, executor):
    run = make_run(tmp_path)
    texts = tiny_texts(45)
    texts[21] = None
    label(fill(run, texts, tmp_path / "encoder"), executor)
    manifest = run.table("labels").read_manifest()
    assert (manifest.num_in, manifest.num_kept, manifest.num_rejected) == (45, 44, {"null_text": 1})
    assert rows_of(run, "label_rejects") == [{"record_id": "r00021", "text": None, "reject_reason": "null_text"}]
    assert "r00021" not in [row["record_id"] for row in rows_of(run)]


def test_a_part_of_nothing_but_empty_strings_and_an_empty_part_are_labelled(tmp_path, executor):
    run = make_run(tmp_path / "blank")
    label(fill(run, [""] * 40, tmp_path / "blank" / "encoder"), executor)
    assert len({row["label"] for row in rows_of(run)}) == 1
    assert len(rows_of(run)) == 40
    empty = make_run(tmp_path / "empty", keep=("year",))
    assert label(fill(empty, [], tmp_path / "empty" / "encoder"), executor).num_in == 0
    assert rows_of(empty) == []


def test_two_attempts_at_one_part_never_put_a_record_in_both_tables(tmp_path, executor):
    """The rejects committed first decide: a record that a killed attempt rejected stays rejected."""
    run = filled_run(tmp_path, 20)
    rejects = run.table("label_rejects")
    earlier = pa.table([["r00003"], [tiny_texts(20)[3]], ["model_error"]], schema=schema.CORPUS_REJECTS)
    rejects.commit_part("part-00000-000000.parquet", earlier)
    manifest = label(run, executor)
    assert (manifest.num_kept, manifest.num_rejected) == (19, {"model_error": 1})
    assert "r00003" not in [row["record_id"] for row in rows_of(run)]


def test_a_record_that_fails_here_and_was_labelled_by_another_attempt_fails_the_part(tmp_path, executor):
    run = make_run(tmp_path)
    texts = tiny_texts(20)
    texts[4] = None
    fill(run, texts, tmp_path / "encoder")
    run.table("label_rejects").commit_part("part-00000-000000.parquet", schema.CORPUS_REJECTS.empty_table())
    with pytest.raises(RuntimeError, match=r"1 of 1 parts are not done \(part-00000-000000.parquet\)") as caught:
        label(run, executor)
    assert "r00004" in str(caught.value.__cause__)
    assert run.table("labels").read_manifest() is None


def test_a_part_that_cannot_be_labelled_is_named_and_the_others_are_kept(tmp_path, executor):
    run = filled_run(tmp_path, 60)
    corpus = run.table("corpus")
    lost = corpus.path("part-00000-000001.parquet")
    content = corpus.filesystem.cat_file(lost)
    corpus.filesystem.rm_file(lost)
    with pytest.raises(
        Damaged, match=r"part-00000-000001.parquet is damaged: it is missing; `llambert repair` makes it"
    ):
        label(run, executor)
    assert run.table("labels").read_progress()["num_failures"] == 1
    assert run.table("labels").read_progress()["failure"]
    corpus.filesystem.pipe_file(lost, content)
    executor.units.clear()
    label(run, executor)
    assert [unit["name"] for unit in executor.units] == ["part-00000-000001.parquet", "part-00000-000002.parquet"]


def test_a_damaged_part_ends_the_stage_in_one_line_and_those_before_it_are_kept(tmp_path, executor):
    run = filled_run(tmp_path, 60)
    corpus = run.table("corpus")
    damaged = corpus.path("part-00000-000001.parquet")
    corpus.filesystem.pipe_file(damaged, corpus.filesystem.cat_file(damaged)[:-10])
    with pytest.raises(InputError, match=r"part-00000-000001.parquet is damaged: .*`llambert repair` makes it again"):
        label(run, executor)
    assert run.table("labels").part_names() == ["part-00000-000000.parquet"]
    assert "is damaged" in run.table("labels").read_progress()["failure"]


def test_an_altered_checkpoint_labels_nothing(tmp_path, executor):
    run = filled_run(tmp_path, 5)
    config = Path(run.table("checkpoint").path("config.json"))
    config.write_text(config.read_text().replace("positive", "negative_").replace('"negative"', '"positive"'))
    with pytest.raises(InputError, match=r"config.json is damaged: its content was altered.*`llambert repair`"):
        label(run, executor)
    assert run.table("labels").part_names() == []


def test_missing_checkpoint_and_missing_columns_are_one_line(tmp_path, executor):
    run = make_run(tmp_path)
    with pytest.raises(InputError, match=r"checkpoint.* is not complete"):
        label(run, executor)
    with pytest.raises(InputError, match=r"label.keep: the corpus has no column 'genre'"):
        label(filled_run(tmp_path / "b", 5, keep=("genre",)), executor)
    with pytest.raises(InputError, match=r"label.keep: 'label' is a column of the labels table"):
        label(filled_run(tmp_path / "c", 5, keep=("label",)), executor)


def test_the_dataset_card_states_schema_provenance_and_counts(tmp_path, executor):
    run = filled_run(tmp_path, 30, keep=("year",))
    manifest = label(run, executor)
    card = run.table("labels").filesystem.cat_file(run.table("labels").path("README.md")).decode()
    for expected in (
        "30 of 30 records",
        "`score` (float32)",
        "- year: the corpus' own",
        run.recipe.corpus.path,
        manifest.model_identity,
    ):
        assert expected in card
    assert f"| positive | {manifest.labels['positive']} |" in card


@pytest.mark.slow
def test_through_ray_with_two_actors_the_table_is_the_same(tmp_path, executor):
    alone = filled_run(tmp_path / "a", 90)
    expected = label(alone, executor)
    run = filled_run(tmp_path / "b", 90, max_actors=2, min_actors=2, cpus_per_actor=0.5)
    manifest = label(run)
    assert [part.sha256 for part in manifest.parts] == [part.sha256 for part in expected.parts]
    assert rows_of(run) == rows_of(alone)
    assert json.loads(manifest.model_dump_json())["num_kept"] == 90
    assert np.isfinite(manifest.measures["records_per_second"])


@pytest.mark.slow
def test_counts_are_ray_metrics_and_equal_the_manifests(tmp_path):
    run = make_run(tmp_path, max_actors=2, min_actors=2, cpus_per_actor=0.5)
    texts = tiny_texts(90)
    texts[33] = None
    fill(run, texts, tmp_path / "encoder")
    ray.shutdown()
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        manifest = label(run)
        exported = scrape_when(context.address_info["metrics_export_port"], "label", 90)
    finally:
        ray.shutdown()
    assert exported["records"] == manifest.num_in == 90
    assert exported["rejected"] == sum(manifest.num_rejected.values()) == 1
    assert exported["tokens"] == manifest.counts["num_tokens"]
    assert exported["padded_tokens"] == manifest.counts["num_padded_tokens"]
    assert exported["busy_seconds"] == pytest.approx(manifest.busy_seconds, abs=0.05)
    assert 0 < exported["padding_waste"] < 2 * 0.03  # of two replicas, summed
    assert manifest.measures["records_per_second"] > 0
    assert 0 < manifest.measures["busy_share.0"] <= 1.01


@pytest.mark.slow
@pytest.mark.s3
def test_to_object_storage_through_ray_with_the_server_killed_and_restarted_between_two_starts(tmp_path):
    with running_server(tmp_path / "s3") as server:
        run = filled_run(tmp_path, 70, gold=True, storage="s3://llambert-test/run")
        ray.shutdown()  # workers of an earlier test's cluster do not have this server's settings
        corpus = run.table("corpus")
        damaged = corpus.path("part-00000-000002.parquet")
        content = corpus.filesystem.cat_file(damaged)
        corpus.filesystem.pipe_file(damaged, content[:100])
        with pytest.raises(InputError, match=r"part-00000-000002.parquet is damaged"):
            label(run)
        server.kill()
        server.start()
        corpus.filesystem.pipe_file(damaged, content)
        manifest = label(run)
        assert (manifest.num_in, manifest.num_kept) == (70, 70)
        assert [row["label"] for row in rows_of(run)] == expected_labels(run, tiny_texts(70))
        problems = [str(finding) for finding in verify(run) if finding.table in ("corpus", "labels", "label_rejects")]
        assert problems == []
        ray.shutdown()
