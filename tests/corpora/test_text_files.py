import gzip

from llambert.corpora import find_source_files, read_rows
from llambert.recipe import CorpusRecipe


def test_a_file_is_a_record_named_by_its_path_with_the_folder_it_lies_in(tmp_path):
    (tmp_path / "sport").mkdir()
    (tmp_path / "sport" / "b.txt").write_text("two\nlines")
    (tmp_path / "sport" / "a.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "c.md").write_bytes(b"\xef\xbb\xbfat the top")
    (tmp_path / ".hidden").write_text("no record")
    corpus = CorpusRecipe(path=str(tmp_path), format="text_files")
    [source] = find_source_files(corpus)
    [rows] = read_rows(source, corpus, ["record_id", "text", "folder"])
    assert rows.records.to_pylist() == [
        {"record_id": "c.md", "text": "at the top", "folder": ""},
        {"record_id": "sport/a.txt.gz", "text": "packed", "folder": "sport"},
        {"record_id": "sport/b.txt", "text": "two\nlines", "folder": "sport"},
    ]


def test_no_more_of_a_file_is_read_than_a_record_can_hold(tmp_path):
    (tmp_path / "huge.txt").write_text("ä" * 1_000_000)
    corpus = CorpusRecipe(path=str(tmp_path), format="text_files", max_text_chars=10)
    [rows] = read_rows(find_source_files(corpus)[0], corpus, ["text"])
    assert 10 < len(rows.records["text"][0].as_py()) < 50  # more than fits, so that it is counted as truncated
