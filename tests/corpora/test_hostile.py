"""A small file that asks for gigabytes costs its reader a bounded amount, and ends in rows, rejects or one line."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert.corpora import parquet
from tests.fixtures import hostile_corpora, umls_sample

BOUND_MIB = 800
"""How much the reader's own process may grow; that of Parquet files is limited by the kernel (``LIMIT_BYTES``)."""
READ = """
import json, resource, sys
import pyarrow.parquet
from llambert.corpora import checks, find_sources
from llambert.corpora.chunks import read_chunks
from llambert.corpora.records import source_columns
from llambert.corpus_recipe import CorpusRecipe
from llambert.errors import InputError
corpus = CorpusRecipe.model_validate_json(sys.argv[1])
columns = source_columns(corpus)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before, num_rows, num_malformed, error = peak(), 0, 0, ""
try:
    sources = find_sources(corpus).units
    checks.require_columns_early(sources, corpus, columns)
    for source in sources:
        for chunk in read_chunks(source, corpus, columns):
            num_rows += chunk.num_rows
            num_malformed += sum(table.num_rows for table in chunk.malformed)
except InputError as caught:
    error = str(caught)
print(json.dumps([peak() - before, num_rows, num_malformed, error]))
"""
IMDB = {"format": "imdb", "columns": {"text": "text", "record_id": "record_id", "split": "split"}}
TOO_MUCH = "cannot be read in 2 GiB of memory"


def read(tmp_path, case, name, **corpus):
    (tmp_path / name).write_bytes(getattr(hostile_corpora, case)())
    recipe = json.dumps({"path": str(tmp_path / name), **corpus})
    done = subprocess.run([sys.executable, "-c", READ, recipe], capture_output=True, timeout=600, check=True)
    grown, *found, error = json.loads(done.stdout)
    assert grown < BOUND_MIB
    assert len(error) < 1000
    assert "\n" not in error
    return *found, error


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("dictionary_of_half_a_billion_values", TOO_MUCH),
        ("page_of_two_gigabytes", TOO_MUCH),
        pytest.param("one_value_of_a_gigabyte", TOO_MUCH, marks=pytest.mark.slow),
        pytest.param("two_billion_lengths", TOO_MUCH, marks=pytest.mark.slow),
        pytest.param("lists_of_nothing", TOO_MUCH, marks=pytest.mark.slow),
    ],
)
def test_a_parquet_file_that_asks_for_gigabytes_is_one_line(tmp_path, case, error):
    num_rows, num_malformed, said = read(tmp_path, case, "x.parquet")
    assert error in said
    assert (num_rows, num_malformed) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "found"),
    [("shared_prefixes", (4000, 0, "")), ("rows_of_two_megabytes", (1024, 0, "")), ("rows_over_the_limit", (0, 5, ""))],
)
def test_rows_that_repeat_megabytes_are_read_a_few_at_a_time(tmp_path, case, found):
    assert read(tmp_path, case, "x.parquet") == found


def test_a_row_over_the_limit_is_a_reject_with_its_number_and_the_others_are_kept(tmp_path):
    texts = ["a", "b" * (65 << 20), "c", "d" * (70 << 20), "e"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", compression="zstd", row_group_size=2)
    found = list(parquet.read_parquet(str(tmp_path / "x.parquet"), ["text"]))
    assert [row["text"] for rows in found for row in rows.records.to_pylist()] == ["a", "c", "e"]
    malformed = [row for rows in found for row in rows.malformed.to_pylist()]
    assert [(row["line"], row["reject_reason"]) for row in malformed] == [(2, "over_long_line"), (4, "over_long_line")]


@pytest.mark.slow
def test_rows_read_before_memory_was_short_are_not_read_again(tmp_path):
    """The second row group needs fewer rows at a time."""
    tables = [pa.table({"text": [f"{n}" for n in range(1500)]}), pa.table({"text": ["a" * (1 << 20)] * 1100})]
    with pq.ParquetWriter(tmp_path / "x.parquet", tables[0].schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    num_rows = 0
    for rows in parquet.read_parquet(str(tmp_path / "x.parquet"), ["text"]):
        if num_rows < 1500:
            first = rows.records["text"].to_pylist()[: 1500 - num_rows]
            assert first == [f"{num_rows + n}" for n in range(len(first))]
        num_rows += rows.records.num_rows
    assert num_rows == 2600


@pytest.mark.parametrize(
    ("case", "name", "found", "error"),
    [
        ("csv_of_a_million_columns", "x.csv.gz", (0, 0), "and 999,971 more"),
        ("csv_name_of_a_megabyte", "x.csv.gz", (0, 0), "no column 'text'; it has 'aaa"),
        ("xz_that_takes_a_gigabyte", "x.csv.xz", (0, 0), "Memory usage limit exceeded"),
        ("tar_of_negative_size", "x.tar.gz", (0, 0), "a file of -512 bytes"),
        ("tar_name_of_gigabytes", "x.tar.gz", (0, 0), "a name, or the attributes of a file, of 1,073,741,824 bytes"),
        ("tar_pax_of_gigabytes", "x.tar.gz", (0, 0), "a name, or the attributes of a file, of 1,073,741,824 bytes"),
        ("tar_of_sparse_maps", "x.tar.gz", (0, 0), "it holds a sparse file"),
        ("tar_of_names", "x.tar.gz", (0, 0), "more extensions of headers than any program writes"),
        ("jsonl_keys_of_megabytes", "x.jsonl.gz", (150, 0), ""),
        pytest.param("text_without_newline", "x.txt.gz", (0, 1), "", marks=pytest.mark.slow),
        pytest.param("csv_quote_over_lines", "x.csv.gz", (0, 1), "", marks=pytest.mark.slow),
        pytest.param("csv_over_long_lines", "x.csv.gz", (0, 60), "", marks=pytest.mark.slow),
        pytest.param("jsonl_malformed_lines", "x.jsonl.gz", (0, 60), "", marks=pytest.mark.slow),
        pytest.param("jsonl_of_a_million_objects", "x.jsonl.gz", (1, 0), "", marks=pytest.mark.slow),
        pytest.param("tar_of_empty_members", "x.tar.gz", (400_000, 0), "", marks=pytest.mark.slow),
    ],
)
def test_lines_names_and_headers_of_any_size_take_bounded_memory(tmp_path, case, name, found, error):
    *counts, said = read(tmp_path, case, name, **(IMDB if ".tar" in name else {}))
    assert tuple(counts) == found
    assert error in said
    assert bool(error) == bool(said)


@pytest.mark.slow
def test_a_release_whose_table_is_blank_lines_takes_bounded_memory(tmp_path):
    umls_sample.write(tmp_path)
    (tmp_path / "MRCONSO.RRF").unlink()
    columns = {"text": "text", "record_id": "record_id"}
    found = read(tmp_path, "rrf_of_newlines", "MRCONSO.RRF.gz", path=str(tmp_path), format="umls", columns=columns)
    assert (found[0], found[1] >= 1_000_000, found[2]) == (0, True, "")


def test_the_names_of_json_keys_in_a_message_are_few_and_short(tmp_path):
    rows = [{f"{n}{'k' * 100_000}": 1} for n in range(20)] + [{f"k{n}": 1} for n in range(5000)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from llambert.corpora import files, find_sources
    from llambert.corpus_recipe import CorpusRecipe

    corpus = CorpusRecipe(path=str(tmp_path / "x.jsonl"))
    names = files.column_names(find_sources(corpus).units[0], corpus)
    assert names == [f"k{n}" for n in range(1004)]
