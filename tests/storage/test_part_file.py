"""A part that was altered where it is stored is refused by whoever reads it, not read as other rows."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llambert import schema
from llambert.classifier.labelling import read_windows
from llambert.errors import InputError
from llambert.storage.run_directory import TableDirectory

NAME = "part-00000.parquet"


@pytest.fixture
def table(tmp_path) -> TableDirectory:
    """A corpus of one part of 200 records."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(["film", "good", "dull", "never", "plot"], k=12)) for _ in range(200)]
    columns = [[f"r{n:03d}" for n in range(200)], texts, ["all"] * 200, pa.nulls(200, pa.string())]
    corpus = TableDirectory(str(tmp_path / "corpus" / "abc"), schema.CORPUS)
    corpus.commit_part(NAME, pa.table(columns, schema=schema.CORPUS))
    return corpus


def pages(path: Path) -> range:
    """The bytes of the file's columns: what is before the footer."""
    content = path.read_bytes()
    return range(4, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))


def read_whole(corpus: TableDirectory) -> pa.Table:
    return corpus.read_part(NAME)


def read_in_windows(corpus: TableDirectory) -> pa.Table:
    return pa.concat_tables(read_windows(corpus, NAME, [schema.RECORD_ID, schema.TEXT]))


@pytest.mark.parametrize("read", [read_whole, read_in_windows])
def test_no_altered_byte_of_a_page_is_read_as_other_rows(table, read):
    path, expected = Path(table.path(NAME)), read(table)
    content = path.read_bytes()
    refusals = []
    for position in pages(path)[::7]:
        altered = bytearray(content)
        altered[position] ^= 0xFF
        path.write_bytes(bytes(altered))
        try:
            assert read(table).equals(expected), f"byte {position}"
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > len(pages(path)[::7]) / 2
    assert all(f"{NAME} is damaged" in line and "llambert repair" in line for line in refusals)


def test_a_committed_part_that_was_altered_is_not_taken_for_the_result_by_a_restart(table):
    path = Path(table.path(NAME))
    content = bytearray(path.read_bytes())
    content[len(pages(path)) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=f"{NAME} is damaged"):
        table.committed_part(NAME)


def test_a_part_cut_short_is_refused_in_one_line(table):
    path = Path(table.path(NAME))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{NAME} is damaged"):
        table.read_part(NAME)


def test_a_part_that_is_not_there_stays_a_missing_file(table):
    with pytest.raises(FileNotFoundError):
        table.read_part("part-00001.parquet")


def test_parts_that_were_written_without_checksums_are_still_read(table):
    rows = table.read_part(NAME)
    pq.write_table(rows, table.path("part-00001.parquet"))
    assert table.read_part("part-00001.parquet").equals(rows)
