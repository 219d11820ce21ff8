"""What a corpus holds now, unit by unit: a change to one file changes the content of its unit alone."""

import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import find_sources
from llambert.corpora.contents import changed_files, generation, read_contents, with_contents
from llambert.corpora.rows import SourceFile
from llambert.corpus_recipe import CorpusRecipe
from llambert.storage.manifest import SourceUnit
from tests.corpora.test_identities import KINDS, write


def units(path: Path, kind: str, **fields) -> dict[str, str]:
    """Key -> content of each unit."""
    corpus = CorpusRecipe(path=str(path), format=kind.partition(",")[0], **fields)
    return {unit.key: unit.content for unit in with_contents(find_sources(corpus), read_contents(corpus)).units}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("text_files", "imdb, a folder")])
def test_a_file_that_is_added_removed_or_changed_changes_no_other_units_content(tmp_path, kind):
    write(tmp_path, kind, ["2", "4", "6"])
    before = units(tmp_path, kind)
    assert len(set(before.values())) == len(before) == 3
    write(tmp_path, kind, ["1", "7"])
    assert before.items() <= units(tmp_path, kind).items()
    for name in ("1", "7"):
        (tmp_path / KINDS[kind][1].format(name)).unlink()
    assert units(tmp_path, kind) == before
    target = tmp_path / KINDS[kind][1].format("4")
    KINDS[kind][0](target, pa.table({"text": ["another"], "label": [1]}))
    after = units(tmp_path, kind)
    assert after.keys() == before.keys()
    assert len(after.items() - before.items()) == 1


@pytest.mark.parametrize("kind", ["text_files", "imdb, a folder"])
def test_of_many_small_files_a_change_changes_the_unit_that_it_is_in(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("llambert.corpora.text_files.FILES_PER_UNIT", 4)
    write(tmp_path, kind, [str(name) for name in range(40)])
    before = units(tmp_path, kind)
    assert len(before) > 3
    (tmp_path / KINDS[kind][1].format("7")).write_text("another\n")
    after = units(tmp_path, kind)
    assert after.keys() == before.keys()
    assert len(after.items() - before.items()) == 1


def test_a_data_sets_card_decides_how_all_of_its_files_are_read(tmp_path):
    write(tmp_path, "huggingface", ["2", "4"])
    before = units(tmp_path, "huggingface")
    (tmp_path / "README.md").write_text("---\nconfigs: [{config_name: default, data_files: 'data/*'}]\n---\n")
    after = units(tmp_path, "huggingface")
    assert not before.items() & after.items()


def test_a_saved_data_set_is_one_content(tmp_path, monkeypatch):
    monkeypatch.setattr("llambert.corpora.huggingface.ROWS_PER_SHARD", 4)
    datasets.Dataset.from_dict({"text": [f"row {row}" for row in range(10)]}).save_to_disk(tmp_path / "saved")
    found = units(tmp_path / "saved", "huggingface")
    assert (len(found), len(set(found.values()))) == (3, 1)


def test_all_spans_of_a_large_file_have_the_content_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("llambert.corpora.files.PARQUET_BYTES_PER_UNIT", 100)
    pq.write_table(pa.table({"text": [f"text {n}" * 9 for n in range(4)]}), tmp_path / "x.parquet", row_group_size=2)
    found = units(tmp_path, "auto")
    assert (len(found), len(set(found.values()))) == (2, 1)


def test_a_moved_corpus_holds_the_same(tmp_path):
    write(tmp_path / "a", "auto, CSV", ["2", "4"])
    before = generation(CorpusRecipe(path=str(tmp_path / "a")))
    os.rename(tmp_path / "a", tmp_path / "b")
    assert generation(CorpusRecipe(path=str(tmp_path / "b"))) == before
    (tmp_path / "b/4.csv").rename(tmp_path / "b/5.csv")
    assert generation(CorpusRecipe(path=str(tmp_path / "b"))) != before


def test_changed_files_are_counted_without_opening_one(tmp_path):
    write(tmp_path, "auto, CSV", ["2", "4", "6"])
    corpus = CorpusRecipe(path=str(tmp_path))
    known = [
        SourceUnit(key=unit.key, content=unit.content, name=unit.name, num_records=5)
        for unit in with_contents(find_sources(corpus), read_contents(corpus)).units
    ]
    write(tmp_path, "auto, CSV", ["7", "8"])
    (tmp_path / "2.csv").unlink()
    (tmp_path / "4.csv").write_text("text\nanother\n")
    growth = changed_files(corpus, read_contents(corpus), known)
    assert growth is not None
    assert growth.of_files == "2 files are new, 1 has changed, 1 was removed"
    assert growth.num_files_same == 1
    assert changed_files(CorpusRecipe(path=str(tmp_path), format="text_files"), read_contents(corpus), known) is None


def test_a_units_part_names_hold_its_content_and_its_record_ids_do_not():
    unit = SourceFile("0123456789ab", "x.csv", "csv", 1, content="ba9876543210")
    assert unit.part_name(3) == "part-0123456789ab-ba9876543210-000003.parquet"
