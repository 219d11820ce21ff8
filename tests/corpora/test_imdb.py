import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import find_sources, imdb, read_rows, text_files
from llambert.corpus_recipe import CorpusRecipe

REVIEWS = {
    "test/neg/0_2.txt": b"Dull.",
    "test/pos/0_10.txt": b"A joy.<br /><br />See it<br>twice.",
    "train/neg/1_1.txt": "Schwächer als caf".encode() + b"\xe9",
    "train/pos/1_7.txt": b"Fine.",
    "train/unsup/7_0.txt": b"Who knows?",
}
OTHERS = {"README": b"read me", "train/urls_pos.txt": b"http://nowhere", "imdbEr.txt": b"0.1"}
ROWS = [
    ("test/neg/0_2", "Dull.", "test", "neg", "2"),
    ("test/pos/0_10", "A joy.\n\nSee it\ntwice.", "test", "pos", "10"),
    ("train/neg/1_1", "Schwächer als caf\ufffd", "train", "neg", "1"),
    ("train/pos/1_7", "Fine.", "train", "pos", "7"),
    ("train/unsup/7_0", "Who knows?", "extra", None, None),
]


def read(path: Path, columns: list[str] = imdb.COLUMNS):
    corpus = CorpusRecipe(path=str(path), format="imdb")
    found = [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, columns)]
    records = pa.concat_tables(rows.records for rows in found)
    counts = {key: sum(rows.counts.get(key, 0) for rows in found) for rows in found for key in rows.counts}
    return sorted(zip(*(column.to_pylist() for column in records.columns), strict=True)), counts


@pytest.fixture
def folder(tmp_path):
    for name, content in {**REVIEWS, **OTHERS}.items():
        path = tmp_path / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "aclImdb"


@pytest.mark.parametrize("kind", ["folder", "folder above", "tar", "tar.gz", "tar.bz2", "tgz"])
def test_the_folder_and_its_archives_give_the_same_reviews(folder, kind):
    path = {"folder": folder, "folder above": folder.parent}.get(kind)
    if path is None:
        path = folder.parent / f"archive/aclImdb_v1.{kind}"
        path.parent.mkdir()
        with tarfile.open(path, f"w:{kind.removeprefix('tar').removeprefix('.').replace('tgz', 'gz')}") as archive:
            archive.add(folder, "aclImdb")
    rows, counts = read(path)
    assert rows == ROWS
    assert counts["num_encoding_faults"] == 1
    assert counts.get("num_other_files", len(OTHERS)) == len(OTHERS)  # of a folder they are never opened


def test_the_hubs_files_have_the_same_splits_and_labels_but_no_rating(tmp_path):
    for split, texts, labels in [
        ("train", ["Bad.<br />Really."], [0]),
        ("test", ["Good."], [1]),
        ("unsupervised", ["Who knows?"], [-1]),
    ]:
        pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / f"{split}-00000-of-00001.parquet")
    rows, _ = read(tmp_path)
    assert rows == [
        ("test-00000-of-00001/000000", "Good.", "test", "pos", None),
        ("train-00000-of-00001/000000", "Bad.\nReally.", "train", "neg", None),
        ("unsupervised-00000-of-00001/000000", "Who knows?", "extra", None, None),
    ]


def test_many_small_files_are_few_units_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "FILES_PER_UNIT", 40)
    folder = tmp_path / "train" / "pos"
    folder.mkdir(parents=True)
    for number in range(100):
        (folder / f"{number}_9.txt").write_text(f"Film {number}.")
    units = find_sources(CorpusRecipe(path=str(tmp_path), format="imdb")).units
    assert 1 < len(units) < 10
    assert sorted(member for unit in units for member in unit.members) == sorted(
        f"train/pos/{n}_9.txt" for n in range(100)
    )
    assert len(read(tmp_path)[0]) == 100


def test_columns_come_in_the_order_asked_for(folder):
    assert ("Dull.", "test/neg/0_2") in read(folder, ["text", "record_id"])[0]


def test_hidden_folders_are_not_read_in_a_folder_nor_in_an_archive(folder):
    copy = folder / ".ipynb_checkpoints" / "train" / "pos" / "1_7.txt"
    copy.parent.mkdir(parents=True)
    copy.write_text("An old copy.")
    (folder / "train" / "pos" / "._1_7.txt").write_text("what macOS adds")
    sources = find_sources(CorpusRecipe(path=str(folder), format="imdb"))
    assert sources.num_hidden == 2
    assert read(folder)[0] == ROWS
    with tarfile.open(folder.parent / "a.tar", "w") as archive:
        archive.add(folder, ".")
    rows, counts = read(folder.parent / "a.tar")
    assert rows == ROWS
    assert counts["num_hidden_files"] == 2


def test_a_review_that_is_a_link_in_an_archive_is_malformed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("train/pos/1_7.txt")
        info.type, info.linkname = tarfile.LNKTYPE, "train/pos/2_7.txt"
        archive.addfile(info)
    corpus = CorpusRecipe(path=str(tmp_path / "a.tar"), format="imdb")
    [rows] = read_rows(find_sources(corpus).units[0], corpus, ["text"])
    assert rows.malformed["reject_reason"].to_pylist() == ["not_a_file"]
