"""What people's files are like: each ends in a record, a counted reject or one line of error."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from llambert import schema
from llambert.corpora import checks, find_sources
from llambert.errors import InputError
from llambert.recipe import load_recipe
from llambert.run import Run
from llambert.stages.ingest import IngestFile, complete
from llambert.tasks import load_task

RECIPE = """
name: malformed
task: reviews
storage: {tmp}/run
corpus: {corpus}
annotator: {{model: package:llambert/tasks, num_records: 2}}
classifier: {{model: package:llambert/tasks}}
"""


def ingest_here(tmp_path: Path, corpus: dict[str, Any]) -> Run:
    """Every unit and the look at the whole, as ``ingest`` does them, without Ray."""
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(tmp=tmp_path, corpus=json.dumps(corpus)))
    run = Run(load_recipe(tmp_path / "recipe.yaml"), load_task("reviews"))
    sources = find_sources(run.recipe.corpus)
    worker = IngestFile(run)
    outcomes = [worker(json.loads(json.dumps(asdict(source)))) for source in sources.units]
    complete(run, sources, [part for outcome in outcomes for part in outcome.parts])
    return run


@dataclass
class Case:
    """``files``: name -> content below the corpus' folder. Expected: ``texts`` and ``rejects``, or ``error``."""

    what: str
    files: dict[str, bytes] | Callable[[Path], None]
    texts: list[str] | None = None
    rejects: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    corpus: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def parquet_with_names(*names: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * len(names), names=names), sink)
    return sink.getvalue()


def tar(*names: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"good"))
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("xl/sheet.xml", "<x/>")
    return sink.getvalue()


def notebook(folder: Path) -> None:
    (folder / ".ipynb_checkpoints" / "deeper").mkdir(parents=True)
    for name in ["x.csv", ".ipynb_checkpoints/x-checkpoint.csv", ".ipynb_checkpoints/deeper/x.csv"]:
        (folder / name).write_bytes(ROWS)


def odd_name(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/caf\xe9.csv", "wb") as stream:
        stream.write(ROWS + b"one,too many\n")


def loop(folder: Path) -> None:
    (folder / "x.csv").write_text("text\na\n")
    (folder / "loop").symlink_to("..")


def dead_link(folder: Path) -> None:
    (folder / "x.csv").symlink_to("nowhere.csv")


def no_permission(folder: Path) -> None:
    if os.geteuid() == 0:
        (folder / "x.csv").symlink_to("/proc/self/mem")  # the superuser may read any file but this one
    else:
        (folder / "x.csv").write_text("text\na\n")
        (folder / "x.csv").chmod(0)


IDS = {"columns": {"text": "text", "record_id": "id"}}
LENIENT = {"max_malformed_share": 0.5}
IMDB = {"format": "imdb", "columns": {"text": "text", "record_id": "record_id", "split": "split"}}
FILES = {"format": "text_files"}
ROWS = b"text\ngood\nfine\n"
LONG = b"x" * (17 << 20)
CHINESE = "text\n很好看的书\n没有意思\n".encode("gbk")
SHIFT_JIS = '{"text": "話が面白い表"}\n{"text": "この本が好きです"}\n'.encode("shift_jis")  # 表 ends in a backslash
MOSTLY_SOUND = b"text\n" + b"good\n" * 300


def faulty(what: str, files: dict[str, bytes], texts: list[str], **rejects: int) -> Case:
    return Case(what, files, texts, rejects, corpus=LENIENT)


def imdb(what: str, files: dict[str, bytes], error: str) -> Case:
    return Case(what, files, error=error, corpus=IMDB)


CASES = [
    # Compression and encoding
    Case("truncated gzip", {"x.csv.gz": gzip.compress(ROWS)[:-6]}, error="cannot be read"),
    Case("truncated gzip of JSON", {"x.jsonl.gz": gzip.compress(b'{"text":"a"}\n' * 99)[:-9]}, error="cannot be read"),
    Case("damaged gzip", {"x.csv.gz": gzip.compress(os.urandom(999))[:500] + b"!" * 600}, error="cannot be read"),
    Case("gzip of two members", {"x.csv.gz": gzip.compress(b"text\na\n") + gzip.compress(b"b\n")}, ["a", "b"]),
    Case("gzip with garbage behind it", {"x.csv.gz": gzip.compress(ROWS) + b"garbage"}, error="cannot be read"),
    Case("no gzip although it says so", {"x.csv.gz": ROWS}, error="cannot be read"),
    Case("gzip that does not say so", {"x.csv": gzip.compress(ROWS)}, error="gzip-compressed"),
    Case("zstd", {"x.csv.zst": zstd(ROWS)}, ["good", "fine"]),
    Case("truncated zstd", {"x.csv.zst": zstd(ROWS * 999)[:-9]}, error="cannot be read"),
    Case("damaged zstd", {"x.csv.zst": zstd(ROWS)[:6] + b"\xff" * 50}, error="cannot be read"),
    Case("truncated bzip2", {"x.csv.bz2": bz2.compress(ROWS)[:-9]}, error="cannot be read"),
    Case("truncated xz", {"x.csv.xz": lzma.compress(ROWS)[:-9]}, error="cannot be read"),
    Case("byte-order mark, CSV", {"x.csv": b"\xef\xbb\xbf" + ROWS}, ["good", "fine"]),
    Case("byte-order mark, JSON", {"x.jsonl": b'\xef\xbb\xbf{"text": "a"}\n'}, ["a"]),
    Case("byte-order mark, text", {"x.txt": b"\xef\xbb\xbfa\n"}, ["a"]),
    Case("only a byte-order mark", {"x.csv": b"\xef\xbb\xbf"}, error="is empty"),
    Case("UTF-16", {"x.csv": ROWS.decode().encode("utf-16")}, ["good", "fine"]),
    Case("UTF-16 without a mark", {"x.csv": ROWS.decode().encode("utf-16-le")}, error="is not UTF-8 text"),
    Case("Latin-1", {"x.csv": b"text\ncaf\xe9\n"}, ["caf\ufffd"], counts={"num_encoding_faults": 1}),
    Case("Latin-1 in JSON", {"x.jsonl": b'{"text": "caf\xe9"}\n'}, ["caf\ufffd"], counts={"num_encoding_faults": 1}),
    Case("GBK", {"x.csv": CHINESE}, error="2 of the corpus' 2 rows are not text in UTF-8"),
    Case("GBK, what it is", {"x.csv": CHINESE}, error="probably gb18030 (GBK)"),
    Case(
        "GBK in a folder",
        {"a.csv": ROWS, "b.csv.gz": gzip.compress(CHINESE)},
        error="b.csv.gz: 2 of the corpus' 4 rows",
    ),
    Case("GBK as the recipe says", {"x.csv": CHINESE}, ["很好看的书", "没有意思"], corpus={"encoding": "gbk"}),
    Case(
        "UTF-8 read as ASCII",
        {"x.csv": "text\nő\nű\n".encode()},
        error="not text in ascii",
        corpus={"encoding": "ascii"},
    ),
    Case("GBK in Parquet", {"x.parquet": parquet(text=CHINESE.split()[1:])}, error="convert them to UTF-8"),
    Case("Latin-1, a record a file", {"a": b"caf\xe9", "b": b"\xe9t\xe9"}, error="probably cp1252", corpus=FILES),
    Case("Shift JIS breaks JSON", {"x.jsonl": SHIFT_JIS}, error="probably shift_jis (CP932)", corpus=LENIENT),
    Case("one bad byte in few rows", {"x.csv": b"text\n" + b"good\n" * 9 + b"\xff\n"}, [*["good"] * 9, "\ufffd"]),
    Case("few bad rows", {"x.csv": MOSTLY_SOUND + b"\xff\n" * 2}, [*["good"] * 300, *["\ufffd"] * 2]),
    Case("too many bad rows", {"x.csv": MOSTLY_SOUND + b"\xff\n" * 4}, error="4 of the corpus' 304 rows"),
    Case(
        "more bad rows than usual, as the recipe says",
        {"x.csv": b"text\n\xff\n\xff\n"},
        ["\ufffd", "\ufffd"],
        corpus={"max_undecodable_share": 1.0},
        counts={"num_undecodable": 2},
    ),
    Case(
        "halves of characters in sound UTF-8",
        {"x.jsonl": b'{"text": "a\\udc80"}\n{"text": "\\ud800b"}\n'},
        ["a\ufffd", "\ufffdb"],
        counts={"num_encoding_faults": 2},
    ),
    Case("lone surrogate", {"x.jsonl": b'{"text": "a\\ud800b"}\n'}, ["a\ufffdb"], counts={"num_encoding_faults": 1}),
    Case("surrogate pair", {"x.jsonl": b'{"text": "\\ud83d\\ude00"}\n'}, ["\N{GRINNING FACE}"]),
    Case("embedded NUL, CSV", {"x.csv": b"text\na\x00b\n"}, ["a\x00b"]),
    Case("embedded NUL, JSON", {"x.jsonl": b'{"text": "a\\u0000b"}\n'}, ["a\x00b"]),
    # CSV and TSV
    Case("CRLF", {"x.csv": b'text\r\na\r\n"b\r\nc"\r\n'}, ["a", "b\r\nc"]),
    Case("mixed newlines", {"x.csv": b"text\r\na\nb\rc"}, ["a", "b", "c"]),
    Case("quotes", {"x.csv": b'text,n\n"say ""hi"", he said",1\n'}, ['say "hi", he said']),
    faulty("quote never closed, first row", {"x.csv": b'text,n\n"a,1\nb,2\n'}, ["b"], unterminated_quote=1),
    faulty("quote never closed, last row", {"x.csv": b'text,n\na,1\n"b,2\n'}, ["a"], unterminated_quote=1),
    faulty("text after a closing quote", {"x.csv": b'text,n\n"a" b,1\nc,2\n'}, ["c"], bad_quotes=1),
    faulty("too few fields", {"x.csv": b"text,n\na\nb,1\n"}, ["b"], wrong_number_of_fields=1),
    faulty("too many fields", {"x.csv": b"text,n\na,b,1\nc,1\n"}, ["c"], wrong_number_of_fields=1),
    Case("too many malformed rows", {"x.csv": b"text,n\na\nb,1\n"}, error="x.csv:2 (wrong_number_of_fields)"),
    faulty("a tab in TSV", {"x.tsv": b"text\tn\na\tb\t1\nc\t1\n"}, ["c"], wrong_number_of_fields=1),
    Case("quotes in unquoted TSV", {"x.tsv": b'text\tn\n"a" b\t1\n"c\t2\n5" d\t3\n'}, ['"a" b', '"c', '5" d']),
    Case("semicolons", {"x.csv": b"id;text\n1;a\n"}, error="no column 'text'; it has 'id;text'"),
    Case("semicolons as the recipe says", {"x.csv": b"id;text\n1;a\n"}, ["a"], corpus={"delimiter": ";"}),
    Case("no header", {"x.csv": b"1,a\n2,b\n"}, ["a", "b"], corpus={"header": ["id", "text"]}),
    Case(
        "rows of another kind",
        {"x.csv": b"k,text\nx,a\ny,b\n,c\n"},
        ["a"],
        {"excluded": 2},
        corpus={"only": {"k": ["x"]}},
    ),
    Case("blank lines", {"x.csv": b"text,n\n\na,1\n\n"}, ["a"], counts={"num_blank_lines": 2}),
    Case("empty file", {"x.csv": b""}, error="is empty"),
    Case("only blank lines", {"x.csv": b"\n\n"}, error="is empty"),
    Case("header only", {"x.csv": b"text\n"}, error="has no record"),
    Case("a header that is no row", {"x.csv": b'"text\n'}, error="the header cannot be read"),
    Case("column names twice", {"x.csv": b"text,text\na,b\n"}, error="has 2 columns 'text'"),
    Case("no such column", {"x.csv": b"body\na\n"}, error="no column 'text'; it has 'body'"),
    faulty("over-long line", {"x.csv": b"text,n\n" + LONG + b",1\na,2\n"}, ["a"], over_long_line=1),
    Case(
        "over-long field",
        {"x.csv": b'text,n\n"' + LONG[:9999] + b"\n" + LONG[: 16 << 20] + b'",1\n'},
        error="malformed",
    ),
    # JSON Lines and text
    faulty("cut-off JSON", {"x.jsonl": b'{"text": "a"}\n{"text": "b'}, ["a"], not_json=1),
    faulty("a JSON array among objects", {"x.jsonl": b'{"text": "a"}\n[1]\n'}, ["a"], not_an_object=1),
    Case("one JSON array", {"x.json": b'[{"text": "a"}, {"text": "b"}]'}, error="expected a JSON object a line"),
    Case("pretty-printed JSON", {"x.json": b'{\n "text": "a"\n}\n'}, error="expected a JSON object a line"),
    Case("nested JSON", {"x.jsonl": b'{"text": {"en": ["\xc3\xa4"]}}\n'}, ['{"en": ["ä"]}']),
    Case(
        "no row has the key", {"x.jsonl": b'{"body": "a"}\n'}, error="no column 'text' in any of its 1 rows; the first"
    ),
    Case(
        "no row of several files has the key",
        {"a.jsonl": b'{"text": "a"}\n', "b.jsonl": b'{"text": "b"}\n'},
        error="no column 'stars' in any of its 2 rows; the first ones have 'text'",
        corpus={"columns": {"gold_label": "stars"}},
    ),
    Case(
        "a key that one file has",
        {"a.jsonl": b'{"text": "a"}\n', "b.jsonl": b'{"text": "b", "stars": "positive"}\n'},
        ["a", "b"],
        corpus={"columns": {"gold_label": "stars", "keep": ["stars"]}},
        counts={"num_gold": 1},
    ),
    Case(
        "a file without the text",
        {"a.jsonl": b'{"text": "a"}\n', "b.jsonl": b'{"body": "b"}\n'},
        ["a"],
        {"null_text": 1},
    ),
    Case(
        "an ID that is a list",
        {"x.jsonl": b'{"id": 1, "text": "a"}\n{"id": [2], "text": "b"}\n'},
        ["a"],
        {"nested_record_id": 1},
        corpus=LENIENT | IDS,
    ),
    faulty("deeply nested JSON", {"x.jsonl": b'{"text": "a"}\n' + b"[" * 99999 + b"\n"}, ["a"], not_json=1),
    Case("not a number", {"x.jsonl": b'{"text": NaN}\n{"text": "a"}\n'}, ["a"], {"null_text": 1}),
    Case("numbers and booleans", {"x.jsonl": b'{"text": 1}\n{"text": true}\n'}, ["1", "true"]),
    Case("a row without the key", {"x.jsonl": b'{"text": "a"}\n{"body": "b"}\n'}, ["a"], {"null_text": 1}),
    Case("a key twice", {"x.jsonl": b'{"text": "a", "text": "b"}\n'}, ["b"]),
    Case("huge integer ids", {"x.jsonl": b'{"id": 123456789012345678901234567890, "text": "a"}\n'}, ["a"], corpus=IDS),
    faulty("an absurd integer", {"x.jsonl": b'{"text": "a"}\n{"text": ' + b"9" * 5000 + b"}\n"}, ["a"], not_json=1),
    Case("empty JSON file", {"x.jsonl": b""}, error="has no record"),
    Case("empty text file", {"x.txt": b""}, error="has no record"),
    Case("blank lines of a text", {"x.txt": b"a\n\n \xc2\xa0\nb"}, ["a", "b"], {"empty_text": 2}),
    faulty("over-long line of a text", {"x.txt": LONG + b"\na\n"}, ["a"], over_long_line=1),
    # Ids and splits
    Case("ids with nulls", {"x.csv": b"id,text\n1,a\n,b\n"}, ["a"], {"null_record_id": 1}, corpus=IDS),
    Case("ids twice", {"x.csv": b"id,text\n1,a\n1,b\n"}, error="for example '1'", corpus=IDS),
    Case(
        "splits with nulls",
        {"x.csv": b"s,text\ntrain,a\n,b\n"},
        ["a"],
        {"null_split": 1},
        corpus={"columns": {"split": "s"}},
    ),
    # Parquet
    Case("Parquet of no bytes", {"x.parquet": b""}, error="cannot be read"),
    Case("truncated Parquet", {"x.parquet": parquet(text=["a"] * 99)[:-20]}, error="cannot be read"),
    Case("damaged Parquet", {"x.parquet": b"PAR1" + b"?" * 99 + b"PAR1"}, error="cannot be read"),
    Case("CSV that says Parquet", {"x.parquet": ROWS}, error="cannot be read"),
    Case("Parquet that says CSV", {"x.csv": parquet(text=["a"])}, error="a Parquet file"),
    Case("Parquet without rows", {"x.parquet": parquet(text=pa.array([], pa.string()))}, error="has no record"),
    Case(
        "schemas that differ",
        {"a.parquet": parquet(text=["a"], id=[1]), "b.parquet": parquet(id=["2"], text=["b"])},
        ["a", "b"],
        corpus=IDS,
    ),
    Case(
        "a column only some files have",
        {"a.parquet": parquet(text=["a"]), "b.parquet": parquet(t=["b"])},
        error="b.parquet",
    ),
    Case(
        "gold labels and kept columns only some files have",
        {"a.parquet": parquet(text=["a"], stars=["positive"], year=[1999]), "b.parquet": parquet(text=["b", "c"])},
        ["a", "b", "c"],
        corpus={"columns": {"gold_label": "stars", "keep": ["year"]}},
        counts={"num_gold": 1, "num_rows_of_files_without.stars": 2, "num_rows_of_files_without.year": 2},
    ),
    Case(
        "gold labels no file has",
        {"a.parquet": parquet(text=["a"]), "b.csv": b"text\nb\n"},
        error="no column 'stars'",
        corpus={"columns": {"gold_label": "stars"}},
    ),
    Case("text of integers", {"x.parquet": parquet(text=[7])}, ["7"]),
    Case("text of lists", {"x.parquet": parquet(text=[["a", "b"]])}, ['["a", "b"]']),
    Case("text of bytes", {"x.parquet": parquet(text=[b"a\xff"])}, ["a\ufffd"], counts={"num_encoding_faults": 1}),
    Case("not a number, Parquet", {"x.parquet": parquet(text=[1.5, float("nan")])}, ["1.5"], {"null_text": 1}),
    Case("durations", {"x.parquet": parquet(text=pa.array([5], pa.duration("s")))}, ["5"]),
    Case(
        "column names twice, Parquet", {"x.parquet": parquet_with_names("text", "text")}, error="has 2 columns 'text'"
    ),
    # Files and folders
    Case("a spreadsheet", {"x.csv": zipped()}, error="a zip archive or a spreadsheet"),
    Case("an unknown ending", {"x.docx": b"text"}, error="has none of the endings"),
    Case("an empty folder", {}, error="no file is there"),
    Case("hidden files only", {".x.csv": ROWS}, error="but hidden ones"),
    Case("a hidden folder", notebook, ["good", "fine"], counts={"num_hidden_files": 2}),
    Case("a file whose name is not UTF-8", odd_name, ["good", "fine"], {"wrong_number_of_fields": 1}, corpus=LENIENT),
    Case("a loop of links", loop, error="is a link to a folder"),
    Case("a dead link", dead_link, error="is a link to nothing"),
    Case("no permission", no_permission, error="cannot be read"),
    Case("a glob of nothing", {"x.csv": ROWS}, error="no file is there", corpus={"path": "{folder}/*.parquet"}),
    Case("a scheme nobody knows", {}, error="cannot be read", corpus={"path": "nosuch://bucket/x.csv"}),
    # A record a file, IMDb, Hugging Face
    Case("a file that is not UTF-8", {"a.md": b"a\xff"}, ["a\ufffd"], corpus=FILES),
    Case(
        "a damaged file among files", {"a.gz": b"?", "b": b"b"}, ["b"], {"unreadable_file": 1}, corpus=LENIENT | FILES
    ),
    Case("an empty file among files", {"a": b"", "b": b"b"}, ["b"], {"empty_text": 1}, corpus=FILES),
    imdb("a folder that is no IMDb", {"x.txt": b"a"}, error="is no IMDb data set"),
    imdb("an archive cut off in a file", {"a.tar": tar("train/pos/1_9.txt")[:514]}, error="unexpected end"),
    imdb("an archive cut off between files", {"a.tar": tar("train/pos/1_9.txt")[:1024]}, error="is cut off"),
    imdb("an archive that is none", {"a.tar": b"?" * 2000}, error="cannot be read as a tar archive"),
    imdb("a truncated tar.gz", {"a.tar.gz": gzip.compress(tar("train/pos/1_9.txt"))[:-9]}, error="cannot be read"),
    Case(
        "a review without a rating",
        {"a.tar": tar("train/pos/1_9.txt", "train/pos/notes.txt", "README")},
        ["good"],
        {"bad_file_name": 1},
        corpus=LENIENT | IMDB,
        counts={"num_other_files": 1},
    ),
    Case(
        "a label nobody knows",
        {"train-0.parquet": parquet(text=["a", "b"], label=[1, 5])},
        ["a"],
        {"unknown_label": 1},
        corpus=LENIENT | IMDB,
    ),
    Case(
        "no data set at all", {"x.bin": b"?"}, error="cannot be opened as a data set", corpus={"format": "huggingface"}
    ),
    Case(
        "a split that is not there",
        {"train.csv": ROWS},
        error="no split 'tset'",
        corpus={"format": "huggingface", "huggingface": {"splits": ["tset"]}},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_every_fault_is_a_record_a_reject_or_one_line(tmp_path, case):
    folder = tmp_path / "corpus"
    folder.mkdir()
    if callable(case.files):
        case.files(folder)
    else:
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
    path = case.corpus.get("path", "{folder}").replace("{folder}", str(folder))
    corpus = case.corpus | {"path": path}
    if case.error is not None:
        with pytest.raises(InputError) as caught:
            ingest_here(tmp_path, corpus)
        assert case.error in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    run = ingest_here(tmp_path, corpus)
    manifest = run.table("corpus").require_manifest()
    assert run.table("corpus").read([schema.TEXT])[schema.TEXT].to_pylist() == case.texts
    assert manifest.num_rejected == case.rejects
    assert manifest.num_in == manifest.num_kept + sum(case.rejects.values())
    assert run.table("corpus_rejects").read().num_rows == sum(case.rejects.values())
    assert {name: manifest.counts[name] for name in case.counts} == case.counts


def gold_of(tmp_path: Path, files: dict[str, bytes], corpus: dict[str, Any]) -> tuple[list[str | None], Run]:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    columns = {"gold_label": "y", **corpus.pop("columns", {})}
    run = ingest_here(tmp_path, {"path": str(folder), "columns": columns, **corpus})
    return run.table("corpus").read([schema.GOLD_LABEL])[schema.GOLD_LABEL].to_pylist(), run


def test_gold_values_are_read_by_meaning_and_the_others_are_counted_with_examples(tmp_path):
    csv = b"text,y\na,1.0\nb,0\nc,True\nd,7\ne,7\nf,odd\ng,\nh,unsure\n"
    keys = {"1": "positive", "0": "negative", "unsure": None}
    gold, run = gold_of(tmp_path, {"x.csv": csv}, {"gold_labels": keys})
    assert gold == ["positive", "negative", "positive", None, None, None, None, None]
    counts = run.table("corpus").require_manifest().counts
    assert (counts["num_gold"], counts["num_unknown_gold"]) == (3, 3)
    assert {key: num for key, num in counts.items() if key.startswith("unknown_gold.")} == {
        "unknown_gold.7": 2,
        "unknown_gold.odd": 1,
    }
    [warning] = checks.warnings(counts, run.recipe.corpus)
    assert "3 of 6 gold values (50.0%) in column 'y' match no key of corpus.gold_labels" in warning
    assert "'7' (2), 'odd' (1)" in warning


def test_gold_values_none_of_which_is_a_label_end_ingest_in_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        gold_of(tmp_path, {"x.csv": b"text,y\na,good\nb,good\nc,bad\nd,\n"}, {})
    assert "none of the 3 values of column 'y' is a category (positive, negative)" in str(caught.value)
    assert "found 'good' (2), 'bad' (1); map the values to categories in corpus.gold_labels" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gold_column_without_values_is_no_fault_and_is_said(tmp_path):
    gold, run = gold_of(tmp_path, {"x.csv": b"text,y\na,\nb,\n"}, {})
    assert gold == [None, None]
    [warning] = checks.warnings(run.table("corpus").require_manifest().counts, run.recipe.corpus)
    assert warning.startswith("No gold label was found: column 'y' is empty")


def test_gold_values_of_rows_that_are_no_records_are_not_counted(tmp_path):
    csv = b"text,y,k\na,positive,x\n,odd,x\nb,odd,y\n"
    gold, run = gold_of(tmp_path, {"x.csv": csv}, {"exclude": {"k": ["y"]}})
    assert gold == ["positive"]
    assert run.table("corpus").require_manifest().counts["num_unknown_gold"] == 0


def test_a_class_label_column_is_used_by_its_names(tmp_path):
    features = {name: {"names": ["negative", "positive"], "_type": "ClassLabel"} for name in ("y", "s")}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b", "c"], "y": [1, 0, -1], "s": [0, 0, 1]}).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    corpus = {"columns": {"split": "s"}, "only": {"s": ["negative"]}}
    gold, run = gold_of(tmp_path, {"x.parquet": sink.getvalue()}, corpus)
    assert gold == ["positive", "negative"]
    assert run.table("corpus").read(["split"])["split"].to_pylist() == ["negative", "negative"]


class Broken(MemoryFileSystem):
    """An object store of which one object cannot be had."""

    protocol = "broken"
    store: dict[str, Any] = {}  # noqa: RUF012  as in MemoryFileSystem
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("broken:/"))

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode == "rb" and path.endswith("denied.txt"):
            raise PermissionError("Access Denied")
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def broken():
    fsspec.register_implementation("broken", Broken, clobber=True)
    filesystem = fsspec.filesystem("broken")
    filesystem.pipe({"/bucket/denied.txt": b"a", "/bucket/good.txt": b"b"})
    return filesystem


def test_an_object_that_cannot_be_had_is_one_line(tmp_path, broken):
    with pytest.raises(InputError, match=r"broken:///bucket/denied\.txt: cannot be read: Access Denied"):
        ingest_here(tmp_path, {"path": "broken://bucket"})


def test_an_object_that_cannot_be_had_costs_one_record_where_a_file_is_one(tmp_path, broken):
    run = ingest_here(tmp_path, {"path": "broken://bucket", "format": "text_files"} | LENIENT)
    assert run.table("corpus").read([schema.TEXT])[schema.TEXT].to_pylist() == ["b"]
    [reject] = run.table("corpus_rejects").read().to_pylist()
    assert reject["reject_reason"] == "unreadable_file"
    assert reject["source"].endswith("/bucket/denied.txt")
