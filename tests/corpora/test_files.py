import bz2
import functools
import gzip
import json
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import files, find_sources, read_rows
from llambert.corpora.chunks import read_chunks
from llambert.corpora.records import separate, source_columns
from llambert.corpus_recipe import Columns, CorpusRecipe
from llambert.errors import InputError

ROWS = [{"id": "a", "text": "one, two"}, {"id": "b", "text": 'say "hi"\nagain'}, {"id": "c", "text": "süß"}]


def read(path, columns=("id", "text"), roles=None, **recipe):
    corpus = CorpusRecipe(path=str(path), columns=roles or Columns(), **recipe)
    [source] = find_sources(corpus).units
    tables = [rows.records for rows in read_rows(source, corpus, list(columns))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def test_every_format_gives_the_same_rows(tmp_path):
    csv = 'id,text,more\na,"one, two",1\nb,"say ""hi""\nagain",2\nc,süß,3\n'
    (tmp_path / "x.csv").write_text(csv)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(csv.encode()))
    (tmp_path / "x.csv.bz2").write_bytes(bz2.compress(csv.encode()))
    (tmp_path / "x.tsv").write_text('id\ttext\na\tone, two\nb\t"say ""hi""\nagain"\nc\tsüß\n')
    (tmp_path / "x.jsonl").write_text(
        '{"id":"a","text":"one, two"}\n\n{"id":"b","text":"say \\"hi\\"\\nagain"}\n{"text":"süß","id":"c"}\n'
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    for name in ["x.csv", "x.csv.gz", "x.csv.bz2", "x.tsv", "x.jsonl", "x.parquet"]:
        assert read(tmp_path / name) == ROWS, name


def test_a_text_file_is_a_record_a_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\r\n\ntwo")
    assert read(tmp_path / "x.txt", ["text"]) == [{"text": "one"}, {"text": ""}, {"text": "two"}]


def test_an_empty_csv_field_is_null(tmp_path):
    (tmp_path / "x.csv").write_text('id,text\na,\nb,""\n')
    assert read(tmp_path / "x.csv") == [{"id": "a", "text": None}, {"id": "b", "text": None}]


def test_broken_utf8_becomes_replacement_characters_and_costs_no_row(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,text\na,caf\xe9\nb,fine\n")
    (tmp_path / "x.jsonl").write_bytes(b'{"id":"a","text":"caf\xe9"}\n{"id":"b","text":"\\ud800"}\n')
    assert read(tmp_path / "x.csv") == [{"id": "a", "text": "caf�"}, {"id": "b", "text": "fine"}]
    assert [row["text"] for row in read(tmp_path / "x.jsonl")] == ["caf�", "�"]


@pytest.mark.parametrize("name", [b"caf\xe9.csv", b"a::b [1]*.csv", b"50%25 #;?.csv", "\u6620\u753b.csv".encode()])
def test_a_file_of_any_name_is_read(tmp_path, name):
    folder = tmp_path / "x [1]"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/" + name, "wb") as stream:
        stream.write(b"id,text\na,one\n\xe9,\n")
    corpus = CorpusRecipe(path=str(folder), columns=Columns(record_id="id"))
    [source] = find_sources(corpus).units
    assert read(folder) == [{"id": "a", "text": "one"}, {"id": "\ufffd", "text": None}]
    made = separate(source, next(read_chunks(source, corpus, source_columns(corpus))), corpus, ["positive"])
    assert made.rejects["reject_reason"].to_pylist() == ["garbled_record_id"]


@pytest.mark.parametrize("query", ["", "?page=1&x=[2]"])
def test_a_file_on_a_web_server_is_read(tmp_path, query):
    (tmp_path / "x.csv").write_text("id,text\na,one\n")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.csv{query}"
        assert read(url, format="csv") == [{"id": "a", "text": "one"}]
        server.shutdown()


def test_numbers_and_dictionaries_of_a_parquet_column_are_read_as_text(tmp_path):
    table = pa.table({"id": [1, 2], "text": pa.array(["x", "y"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == [{"id": "1", "text": "x"}, {"id": "2", "text": "y"}]


def test_a_large_parquet_file_is_several_units_which_together_are_all_of_it(tmp_path, monkeypatch):
    rows = [{"id": str(number), "text": f"text {number}"} for number in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=10)
    monkeypatch.setattr(files, "PARQUET_BYTES_PER_UNIT", 400)
    corpus = CorpusRecipe(path=str(tmp_path))
    units = find_sources(corpus).units
    assert len(units) > 2
    assert len({unit.key for unit in units}) == len(units)
    tables = [part.records for unit in units for part in read_rows(unit, corpus, ["id", "text"])]
    assert pa.concat_tables(tables).to_pylist() == rows


def test_a_folder_or_a_glob_is_its_visible_files_in_order(tmp_path):
    for name in ["b.csv", "a.csv", ".hidden.csv", "_SUCCESS"]:
        (tmp_path / name).write_text("id,text\n")
    for path in [tmp_path, tmp_path / "*.csv"]:
        found = find_sources(CorpusRecipe(path=str(path))).units
        assert [file.uri.rsplit("/", 1)[-1] for file in found] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("x.csv", b"id,body\n1,2\n", "no column 'text'; it has 'id', 'body'"), ("x.docx", b"", "has none of the endings")],
)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line_with_its_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["{tmp}/nothing*.csv", "{tmp}/empty", "memory://nowhere", "nosuchscheme://x/y"])
def test_a_corpus_that_is_not_there_is_said_in_one_line(tmp_path, path):
    (tmp_path / "empty").mkdir()
    path = path.replace("{tmp}", str(tmp_path))
    with pytest.raises(InputError) as caught:
        find_sources(CorpusRecipe(path=path))
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_first_appears_late_is_a_column(tmp_path):
    early = '{"id": "a", "text": "x"}\n' * 3000
    (tmp_path / "x.jsonl").write_text(early + '{"id": "b", "text": "y", "stars": 5}\n')
    rows = read(tmp_path / "x.jsonl", ["id", "stars"])
    assert rows[-1] == {"id": "b", "stars": "5"}
    assert {row["stars"] for row in rows[:-1]} == {None}


def test_a_file_may_lack_the_gold_label_and_kept_columns_but_no_other(tmp_path):
    roles = Columns(record_id="id", gold_label="stars", keep=("year",))
    for name, write in [
        ("x.parquet", lambda path: pq.write_table(pa.table({"id": ["a"], "text": ["x"]}), path)),
        ("x.csv", lambda path: path.write_text("id,text\na,x\n")),
    ]:
        write(tmp_path / name)
        rows = read(tmp_path / name, ["id", "text", "stars", "year"], roles)
        assert rows == [{"id": "a", "text": "x", "stars": None, "year": None}]
        with pytest.raises(InputError, match=f"{name}: no column 'stars'"):
            read(tmp_path / name, ["text", "stars"], roles, only={"stars": ("5",)})


def test_the_classes_of_an_integer_column_are_known_by_what_parquet_says_of_them(tmp_path):
    features = {"y": {"names": ["bad", "good"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"y": [1, 0], "text": ["a", "b"]})
    for name, stored in [("a.parquet", metadata), ("b.parquet", {"huggingface": "?"}), ("c.parquet", {})]:
        pq.write_table(table.replace_schema_metadata(stored), tmp_path / name)
    corpus = CorpusRecipe(path=str(tmp_path))
    found = [rows for source in find_sources(corpus).units for rows in read_rows(source, corpus, ["text", "y"])]
    assert [rows.class_names for rows in found] == [{"y": ["bad", "good"]}, {}, {}]
    assert {tuple(rows.records["y"].to_pylist()) for rows in found} == {("1", "0")}


def test_endings_in_upper_case_are_known_too(tmp_path):
    (tmp_path / "A.CSV").write_text("id,text\na,one\n")
    (tmp_path / "B.CSV.GZ").write_bytes(gzip.compress(b"id,text\nb,two\n"))
    assert read(tmp_path / "A.CSV") == [{"id": "a", "text": "one"}]
    assert read(tmp_path / "B.CSV.GZ") == [{"id": "b", "text": "two"}]
