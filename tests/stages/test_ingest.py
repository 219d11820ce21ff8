from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from llambert import schema
from llambert.corpora import find_sources
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.recipe import load_recipe
from llambert.run import Run
from llambert.stages import ingest as stage
from llambert.stages.ingest import IngestFile, complete, ingest
from llambert.tasks import load_task

CSV = """\
key,body,stars,kind
a,Good film.,fresh,review
b,,rotten,review
c,"   ",rotten,review
d,Bad film.,rotten,review
e,A plot.,,plot
f,Good film.,fresh,review
,No id.,fresh,review
g,abcdefghijk,odd,review
"""


def make_run(tmp_path, csv=CSV, settings=()):
    (tmp_path / "films.csv").write_text(csv)
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: films
task: reviews
storage: {tmp_path}/run
corpus:
  path: {tmp_path}/films.csv
  columns: {{record_id: key, text: body, gold_label: stars, keep: [kind]}}
  gold_labels: {{fresh: positive, rotten: negative}}
  exclude: {{kind: [plot]}}
  max_text_chars: 10
  rows_per_part: 3
annotator: {{model: package:llambert/tasks, num_records: 2}}
classifier: {{model: package:llambert/tasks}}
"""
    )
    return Run(load_recipe(tmp_path / "recipe.yaml", list(settings)), load_task("reviews"))


@pytest.mark.slow
def test_every_source_row_is_a_record_or_a_reject_with_its_reason(tmp_path):
    run = make_run(tmp_path)
    manifest = ingest(run)
    assert (manifest.num_in, manifest.num_kept) == (8, 4)
    assert manifest.num_rejected == {"empty_text": 1, "excluded": 1, "null_record_id": 1, "null_text": 1}
    assert manifest.counts["num_truncated"] == 1
    assert manifest.counts["num_unknown_gold"] == 1
    assert run.table("corpus").read().to_pylist() == [
        {"record_id": "a", "text": "Good film.", "split": "all", "gold_label": "positive", "kind": "review"},
        {"record_id": "d", "text": "Bad film.", "split": "all", "gold_label": "negative", "kind": "review"},
        {"record_id": "f", "text": "Good film.", "split": "all", "gold_label": "positive", "kind": "review"},
        {"record_id": "g", "text": "abcdefghij", "split": "all", "gold_label": None, "kind": "review"},
    ]
    assert run.table("corpus_rejects").read(["record_id", "text", "reject_reason"]).to_pylist() == [
        {"record_id": "b", "text": None, "reject_reason": "null_text"},
        {"record_id": "c", "text": "   ", "reject_reason": "empty_text"},
        {"record_id": "e", "text": None, "reject_reason": "excluded"},
        {"record_id": "", "text": "No id.", "reject_reason": "null_record_id"},
    ]
    assert run.table("duplicates").read().to_pylist() == [{"record_id": "f", "duplicate_of": "a"}]
    assert ingest(run) == manifest  # complete: read back, not done again


def test_gold_values_that_match_nothing_are_said_on_the_screen_each_time(tmp_path, capfd):
    run = make_run(tmp_path)
    expected = "ingest: 1 of 4 gold values (25.0%) in column 'stars' match no key of corpus.gold_labels"
    for _ in range(2):
        ingest(run, IN_PROCESS)
        assert f"{expected} and count as no label: 'odd' (1)." in capfd.readouterr().err


def test_a_column_that_no_file_has_is_refused_before_a_row_is_read(tmp_path):
    run = make_run(tmp_path, settings=["corpus.columns.gold_label=grade"])
    with pytest.raises(InputError, match="no column 'grade'; it has 'key', 'body', 'stars', 'kind'"):
        ingest(run)
    assert not (tmp_path / "run").exists()


def test_what_a_gold_value_means_is_part_of_the_fingerprint(tmp_path):
    run = make_run(tmp_path)
    words = [category.model_copy(update={"name": f"very {category.name}"}) for category in run.task.categories]
    other = Run(run.recipe, run.task.model_copy(update={"categories": tuple(words)}))
    assert run.fingerprints["corpus"] != other.fingerprints["corpus"]


def test_a_record_id_that_stands_twice_is_refused_with_examples(tmp_path):
    run = make_run(tmp_path, CSV.replace("d,Bad", "a,Bad"))
    with pytest.raises(InputError, match="1 record IDs are not unique, for example 'a'"):
        ingest(run, IN_PROCESS)
    assert run.table("corpus").read_manifest() is None


def test_ids_that_share_a_hash_and_differ_are_no_fault(tmp_path, monkeypatch):
    # As among billions of IDs: here all of one length share their hash.
    monkeypatch.setattr(stage, "hash64", lambda values: np.array([len(v) for v in values.to_pylist()], np.uint64))
    run = make_run(tmp_path, "key,body,stars,kind\na,One,fresh,x\nb,Two two,rotten,x\nc,Three films,fresh,x\n")
    assert ingest(run, IN_PROCESS).num_kept == 3
    (tmp_path / "again").mkdir()
    run = make_run(
        tmp_path / "again", "key,body,stars,kind\na,One,fresh,x\nb,Two two,rotten,x\nb,Three films,fresh,x\n"
    )
    with pytest.raises(InputError, match="are not unique, for example 'b'"):
        ingest(run, IN_PROCESS)


def test_a_corpus_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no record.*null_text"):
        ingest(make_run(tmp_path, "key,body,stars,kind\na,,fresh,review\n"), IN_PROCESS)


def ingest_file(tmp_path, run):
    path = tmp_path / "films.csv"
    return IngestFile(run), {"key": "0123456789ab", "uri": str(path), "format": "csv", "num_bytes": path.stat().st_size}


def test_a_second_start_keeps_committed_parts_and_makes_the_missing_ones(tmp_path):
    run = make_run(tmp_path)
    worker, unit = ingest_file(tmp_path, run)
    first = worker(unit).parts
    assert [part.num_rows for part in first] == [1, 2, 1]
    kept, lost, _ = (Path(run.table("corpus").path(part.name)) for part in first)
    lost.unlink()
    written = kept.stat().st_mtime_ns
    assert worker(unit).parts == first
    assert lost.exists()
    assert kept.stat().st_mtime_ns == written


def test_the_number_of_listings_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
    listed = []
    ls = LocalFileSystem.ls
    monkeypatch.setattr(LocalFileSystem, "ls", lambda self, path, **how: listed.append(path) or ls(self, path, **how))

    def num_listings(num_files):
        folder = tmp_path / str(num_files)
        (folder / "films").mkdir(parents=True)
        run = make_run(folder, settings=[f"corpus.path={folder}/films"])
        for number in range(num_files):
            (folder / "films" / f"{number}.csv").write_text(f"key,body,stars,kind\nk{number},Film {number}.,fresh,x\n")
        listed.clear()
        assert ingest(run, IN_PROCESS).num_kept == num_files
        return len([path for path in listed if "/run/corpus" in path])  # of its tables

    assert num_listings(40) == num_listings(4)


def test_ids_are_made_of_file_row_and_content_where_the_corpus_has_none(tmp_path):
    run = make_run(tmp_path, settings=["corpus.columns.record_id=null", "corpus.rows_per_part=100"])
    worker, unit = ingest_file(tmp_path, run)
    worker(unit)
    ids = worker.corpus.read_part("part-0123456789ab-000000.parquet")[schema.RECORD_ID].to_pylist()
    assert len(set(ids)) == len(ids) == 5
    assert ids[0].startswith("0123456789ab-000000000-")
    assert ids[0].rsplit("-")[-1] == ids[2].rsplit("-")[-1]  # the same text, at another row


def test_the_parts_of_a_corpus_are_in_the_order_of_its_files_and_so_is_the_first_of_duplicates(tmp_path):
    run = make_run(tmp_path, settings=["corpus.columns.record_id=null", f"corpus.path={tmp_path}/in"])
    (tmp_path / "in").mkdir()
    for name in "abcdefgh":
        rows = [f"{name}{row},{name} {row},fresh,review" for row in range(4)]
        (tmp_path / "in" / f"{name}.csv").write_text("\n".join(["key,body,stars,kind", *rows, "x,same,fresh,review\n"]))
    sources = find_sources(run.recipe.corpus)
    worker = IngestFile(run)
    outcomes = [worker(asdict(source)) for source in sources.units]
    parts = [part for outcome in outcomes[::-1] for part in outcome.parts]
    manifest = complete(run, sources, parts)
    names = [part.name for part in manifest.parts]
    assert names != sorted(names)
    records = run.table("corpus").read().to_pylist()
    texts = [record["text"] for record in records]
    assert texts == [text for name in "abcdefgh" for text in [*(f"{name} {row}" for row in range(4)), "same"]]
    assert [part.name for part in run.table("corpus_rejects").require_manifest().parts] == names
    first, *later = [record["record_id"] for record in records if record["text"] == "same"]
    duplicates = run.table("duplicates").read().to_pylist()
    assert duplicates == [{"record_id": record_id, "duplicate_of": first} for record_id in later]


@pytest.mark.parametrize(
    ("texts", "copies"),
    [("xyxzyx", {"r2": "r0", "r4": "r1", "r5": "r0"}), ("xyz", {}), ("x", {}), ("xx", {"r1": "r0"})],
)
def test_each_later_copy_of_a_text_is_a_duplicate_of_the_first_one(tmp_path, texts, copies):
    rows = "".join(f"r{number},{text},fresh,review\n" for number, text in enumerate(texts))
    run = make_run(tmp_path, f"key,body,stars,kind\n{rows}")
    assert ingest(run, IN_PROCESS).counts["num_duplicates"] == len(copies)
    found = run.table("duplicates").read()
    assert dict(zip(*(column.to_pylist() for column in found.columns), strict=True)) == copies
    assert found[schema.RECORD_ID].to_pylist() == sorted(copies)


def test_the_gold_label_changes_neither_what_is_sampled_nor_what_is_asked(tmp_path):
    with_gold = make_run(tmp_path).fingerprints
    without = make_run(tmp_path, settings=["corpus.columns.gold_label=null", "corpus.gold_labels={}"]).fingerprints
    assert with_gold["corpus"] != without["corpus"]
    same = ["sample", "responses", "silver", "checkpoint", "labels"]
    assert [with_gold[name] for name in same] == [without[name] for name in same]


def test_more_records_keep_the_answers_and_change_what_is_made_of_them(tmp_path):
    few, many = make_run(tmp_path), make_run(tmp_path, settings=["annotator.num_records=3"])
    assert few.fingerprints["answers"] == many.fingerprints["answers"]
    for name in ["sample", "responses", "silver", "checkpoint", "labels"]:
        assert few.fingerprints[name] != many.fingerprints[name]


def test_keys_stand_row_for_row_with_the_records(tmp_path):
    worker, unit = ingest_file(tmp_path, make_run(tmp_path))
    for part in worker(unit).parts:
        assert worker.keys.read_part(part.name).num_rows == part.num_rows
    assert isinstance(worker.keys.read_part(part.name), pa.Table)


def test_hidden_files_are_said_on_the_screen_counted_and_no_part_of_the_corpus(tmp_path, capsys):
    run = make_run(tmp_path)
    (tmp_path / "in" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ["in/films.csv", "in/.ipynb_checkpoints/films-checkpoint.csv", "in/_films.csv"]:
        (tmp_path / name).write_text(CSV)
    run = Run(load_recipe(tmp_path / "recipe.yaml", [f"corpus.path={tmp_path}/in"]), run.task)
    manifest = ingest(run, IN_PROCESS)
    assert (manifest.num_kept, manifest.counts["num_hidden_files"]) == (4, 2)
    assert "ingest: 2 hidden files skipped" in capsys.readouterr().err
    (tmp_path / "in" / "_films.csv").write_text("edited")
    again = Run(load_recipe(tmp_path / "recipe.yaml", [f"corpus.path={tmp_path}/in"]), run.task)
    assert again.fingerprints["corpus"] == run.fingerprints["corpus"]
