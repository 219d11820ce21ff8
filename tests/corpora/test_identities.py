"""Record IDs and part names do not change when files are added to a corpus, or removed, or the corpus is moved."""

import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from llambert.corpora import find_sources
from llambert.corpora.chunks import read_chunks
from llambert.corpora.records import separate, source_columns
from llambert.corpora.text_files import units_of
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
from llambert.storage.reference import FoundFiles


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=2)


def write_jsonl(path: Path, table: pa.Table) -> None:
    path.write_text("".join(f'{{"text": "{row}"}}\n' for row in table["text"].to_pylist()))


def write_csv(path: Path, table: pa.Table) -> None:
    pyarrow.csv.write_csv(table.select(["text"]), path)


def write_text(path: Path, table: pa.Table) -> None:
    path.write_text("".join(f"{row}\n" for row in table["text"].to_pylist()))


# How a file is written, the ending of its name, and the folder that it is in.
KINDS = {
    "auto, JSON Lines": (write_jsonl, "{}.jsonl"),
    "auto, CSV": (write_csv, "{}.csv"),
    "auto, Parquet": (write_parquet, "{}.parquet"),
    "text": (write_text, "{}.txt"),
    "text_files": (write_text, "{}.txt"),
    "imdb, a folder": (write_text, "train/pos/{}_7.txt"),
    "imdb, of the hub": (write_parquet, "plain_text/train-{}.parquet"),
    "huggingface": (write_parquet, "data/train-{}.parquet"),
    "huggingface, JSON Lines": (write_jsonl, "data/train-{}.jsonl"),
}
COLLIDING = ["23300648.csv", "3129095.csv"]  # found among forty million names
BEFORE, ADDED, REMOVED = ["2", "4", "6"], ["1", "3", "7"], "4"  # the added ones come first, between them and last


def write(folder: Path, kind: str, names: list[str]) -> None:
    write_file, path = KINDS[kind]
    for name in names:
        target = folder / path.format(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, pa.table({"text": [f"Film {name}, row {row}." for row in range(5)], "label": [1] * 5}))


def ingested(path: Path, kind: str, **fields) -> dict[str, list[tuple[str, str]]]:
    """Part -> its records' IDs and texts, all in the order of the sources."""
    corpus = CorpusRecipe(path=str(path), format=kind.partition(",")[0], rows_per_part=2, **fields)
    return {
        source.part_name(number): [
            (record["record_id"], record["text"]) for record in separate(source, chunk, corpus, []).records.to_pylist()
        ]
        for source in find_sources(corpus).units
        for number, chunk in enumerate(read_chunks(source, corpus, source_columns(corpus)))
    }


def records(parts: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    return {record_id: text for rows in parts.values() for record_id, text in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_added_or_removed_changes_no_other_record_id_or_part_name(tmp_path, kind):
    write(tmp_path / "corpus", kind, BEFORE)
    before = ingested(tmp_path / "corpus", kind)
    assert len(records(before)) == len([row for rows in before.values() for row in rows])
    write(tmp_path / "corpus", kind, ADDED)
    after = ingested(tmp_path / "corpus", kind)
    assert len(records(after)) == 2 * len(records(before))
    assert before.keys() <= after.keys()
    assert records(before).items() <= records(after).items()
    texts = list(records(after).values())
    assert texts == sorted(texts)  # in the order of the paths, not of the keys
    (tmp_path / "corpus" / KINDS[kind][1].format(REMOVED)).unlink()
    left = ingested(tmp_path / "corpus", kind)
    assert left.keys() <= after.keys()
    assert records(after).items() - records(left).items() == {
        (record_id, text) for record_id, text in records(after).items() if f"Film {REMOVED}," in text
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_that_is_moved_keeps_its_record_ids_and_part_names(tmp_path, kind):
    write(tmp_path / "corpus", kind, BEFORE)
    before = ingested(tmp_path / "corpus", kind)
    shutil.move(tmp_path / "corpus", tmp_path / "elsewhere" / "moved")
    assert ingested(tmp_path / "elsewhere" / "moved", kind) == before
    if not kind.startswith("huggingface"):
        assert ingested(tmp_path / "elsewhere" / "moved" / "**", kind) == before


def test_a_file_named_by_itself_has_the_ids_that_it_has_in_its_folder(tmp_path):
    write(tmp_path, "auto, CSV", BEFORE)
    assert ingested(tmp_path / "4.csv", "auto").items() <= ingested(tmp_path, "auto").items()


def test_rows_appended_to_a_saved_data_set_change_no_record_id(tmp_path, monkeypatch):
    monkeypatch.setattr("llambert.corpora.huggingface.ROWS_PER_SHARD", 4)
    for name, num in {"few": 10, "many": 15}.items():
        datasets.Dataset.from_dict({"text": [f"row {row}" for row in range(num)]}).save_to_disk(tmp_path / name)
    few, many = (ingested(tmp_path / name, "huggingface") for name in ("few", "many"))
    assert few.keys() <= many.keys()
    assert records(few).items() <= records(many).items()
    assert len(records(many)) == 15


def test_a_large_parquet_file_is_units_whose_ids_do_not_depend_on_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr("llambert.corpora.files.PARQUET_BYTES_PER_UNIT", 100)
    write(tmp_path, "auto, Parquet", BEFORE)
    before = ingested(tmp_path, "auto")
    assert len({name.split("-")[1] for name in before}) > len(BEFORE)
    write(tmp_path, "auto, Parquet", ADDED)
    assert before.items() <= ingested(tmp_path, "auto").items()


def test_of_many_small_files_only_the_unit_changes_that_one_is_added_to_or_removed_from():
    names = [f"/corpus/{n:06d}.txt" for n in range(0, 20_000, 2)]

    def units(names: list[str]) -> set[tuple[str, tuple[str, ...]]]:
        found = FoundFiles(LocalFileSystem(), {name: {"size": 1_000} for name in sorted(names)}, 0, "/corpus")
        return {(unit.key, tuple(unit.members)) for unit in units_of(found, found.files, "text_files")}

    before = units(names)
    assert 5 < len(before) < 30
    num_renamed = 0
    for n in range(1, 20_000, 398):
        after = units([*names, f"/corpus/{n:06d}.txt"])
        assert len(before - after) == 1
        num_renamed += not {key for key, _ in before} <= {key for key, _ in after}
    assert num_renamed == 0
    assert all(len(members) < 10_000 for _, members in before)


def test_two_files_whose_keys_are_the_same_by_chance_are_refused(tmp_path):
    for name in COLLIDING:
        (tmp_path / name).write_text("text\nx\n")
    with pytest.raises(InputError, match=f"{COLLIDING[0]} and .*{COLLIDING[1]} have the same hash; rename one of them"):
        find_sources(CorpusRecipe(path=str(tmp_path)))
