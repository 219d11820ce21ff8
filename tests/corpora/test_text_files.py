import gzip
import json
import os
from dataclasses import asdict

from llambert.corpora import find_sources, read_rows
from llambert.corpora.rows import SourceFile, hidden_files_skipped
from llambert.corpus_recipe import CorpusRecipe


def test_a_file_is_a_record_named_by_its_path_with_the_folder_it_lies_in(tmp_path):
    (tmp_path / "sport").mkdir()
    (tmp_path / "sport" / "b.txt").write_text("two\nlines")
    (tmp_path / "sport" / "a.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "c.md").write_bytes(b"\xef\xbb\xbfat the top")
    (tmp_path / ".hidden").write_text("no record")
    corpus = CorpusRecipe(path=str(tmp_path), format="text_files")
    [source] = find_sources(corpus).units
    [rows] = read_rows(source, corpus, ["record_id", "text", "folder"])
    assert rows.records.to_pylist() == [
        {"record_id": "c.md", "text": "at the top", "folder": ""},
        {"record_id": "sport/a.txt.gz", "text": "packed", "folder": "sport"},
        {"record_id": "sport/b.txt", "text": "two\nlines", "folder": "sport"},
    ]


def test_no_more_of_a_file_is_read_than_a_record_can_hold(tmp_path):
    (tmp_path / "huge.txt").write_text("ä" * 1_000_000)
    corpus = CorpusRecipe(path=str(tmp_path), format="text_files", max_text_chars=10)
    [rows] = read_rows(find_sources(corpus).units[0], corpus, ["text"])
    assert 10 < len(rows.records["text"][0].as_py()) < 50  # more than fits, so that it is counted as truncated


def folder_with(tmp_path, *names: bytes):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in names:
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(name.rpartition(b"/")[2])
    return folder


def test_a_name_that_is_not_utf_8_is_an_escaped_id_and_no_two_files_share_one(tmp_path):
    folder = folder_with(tmp_path, b"caf\xe9.txt", rb"caf\xE9.txt", b"\xff/a.txt", "映画.txt".encode(), b"50%20 #;.txt")
    corpus = CorpusRecipe(path=str(folder), format="text_files")
    [source] = find_sources(corpus).units
    crossed = SourceFile(**json.loads(json.dumps(asdict(source))))
    [rows] = read_rows(crossed, corpus, ["record_id", "folder", "text"])
    assert {row["record_id"]: row["folder"] for row in rows.records.to_pylist()} == {
        r"caf\xE9.txt": "",
        r"caf\x5CxE9.txt": "",
        r"\xFF/a.txt": r"\xFF",
        "映画.txt": "",
        "50%20 #;.txt": "",
    }
    assert rows.malformed.num_rows == 0


def test_a_file_that_cannot_be_read_is_named_though_its_name_is_not_utf_8(tmp_path):
    folder = folder_with(tmp_path, b"caf\xe9.gz", b"a.txt")
    corpus = CorpusRecipe(path=str(folder), format="text_files")
    [rows] = read_rows(find_sources(corpus).units[0], corpus, ["text"])
    [bad] = rows.malformed.to_pylist()
    assert bad["source"].endswith(r"/caf\xE9.gz")
    assert bad["reject_reason"] == "unreadable_file"


def test_hidden_folders_are_not_read_and_their_files_are_counted(tmp_path):
    folder = folder_with(
        tmp_path, b"a.txt", b".ipynb_checkpoints/a-checkpoint.txt", b"x/_temporary/0/b.txt", b"_SUCCESS"
    )
    sources = find_sources(CorpusRecipe(path=str(folder), format="text_files"))
    assert [source.members for source in sources.units] == [["a.txt"]]
    assert sources.num_hidden == 3
    assert hidden_files_skipped(sources.num_hidden) == "3 hidden files skipped"
