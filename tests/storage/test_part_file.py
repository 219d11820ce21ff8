"""A part that was altered where it is stored is refused by whoever reads it, not read as other rows."""

import os
import random
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from llambert import schema
from llambert.classifier.labelling import read_windows
from llambert.errors import Damaged, InputError
from llambert.storage.part_file import is_unaltered
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
    assert all(f"{NAME} is damaged" in line and "delete it and start" in line for line in refusals)


def flip(path: Path, position: int, content: bytes) -> None:
    altered = bytearray(content)
    altered[position] ^= 0xFF
    path.write_bytes(bytes(altered))


def test_an_altered_byte_anywhere_is_found_by_whoever_reads_the_whole_part(table):
    path, part = Path(table.path(NAME)), table.committed_part(NAME)
    content = path.read_bytes()
    table.check_part(NAME)
    assert is_unaltered(content, part.sha256)
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 0xFF
        assert not is_unaltered(bytes(altered), part.sha256), f"byte {position}"
    for position in pages(path)[::101]:
        flip(path, position, content)
        with pytest.raises(InputError, match=f"{NAME} is damaged: its pages are not those that were written"):
            table.check_part(NAME)


def test_a_restart_never_takes_a_part_with_an_altered_footer_for_the_one_committed(table):
    path, part = Path(table.path(NAME)), table.committed_part(NAME)
    content, refusals = path.read_bytes(), []
    for position in range(pages(path).stop, len(content)):
        flip(path, position, content)
        try:
            found = table.committed_part(NAME)
        except InputError as error:
            refusals.append(str(error))
        else:
            assert found.sha256 != part.sha256, f"byte {position}"
    assert len(refusals) > 100
    assert all(f"{NAME} is damaged" in line for line in refusals)


def test_altered_counts_are_found_where_no_manifest_says_what_they_were(tmp_path):
    table = TableDirectory(str(tmp_path))
    table.commit_part(NAME, pa.table({"a": [1]}), counts={"num_read": 4711})
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b"4711", b"4712"))
    assert table.committed_part(NAME).counts == {"num_read": 4712}  # a restart cannot know
    with pytest.raises(InputError, match=f"{NAME} is damaged"):
        table.check_part(NAME)


class CountingFileSystem(LocalFileSystem):
    """Local files under another name, whose reads are counted."""

    protocol = "counted"
    cachable = False
    num_bytes_read = 0

    def cat_file(self, path, start=None, end=None, **options):
        content = super().cat_file(path, start=start, end=end, **options)
        CountingFileSystem.num_bytes_read += len(content)
        return content


@pytest.mark.parametrize("num_columns", [1, 1_000])
def test_a_restart_reads_the_footer_of_a_part_alone_whatever_its_size(tmp_path, num_columns):
    fsspec.register_implementation("counted", CountingFileSystem, clobber=True)
    values = pa.array(random.Random(0).choices(range(1 << 60), k=1 << 20 if num_columns == 1 else 1_000))
    rows = pa.table({f"c{n}": values for n in range(num_columns)})
    written = TableDirectory(str(tmp_path / "t")).commit_part(NAME, rows, counts={"n": 3})
    CountingFileSystem.num_bytes_read = 0
    assert TableDirectory(f"counted://{tmp_path}/t").committed_part(NAME) == written
    footer = written.num_bytes - len(pages(tmp_path / "t" / NAME)) - 4
    assert (footer > 64 << 10) == (num_columns > 1)
    assert footer <= CountingFileSystem.num_bytes_read <= footer + (64 << 10)
    assert written.num_bytes > 5 << 20


def test_a_parquet_file_that_no_stage_committed_is_not_taken_for_a_part(table):
    pq.write_table(table.read_part(NAME), table.path("part-00001.parquet"))
    with pytest.raises(InputError, match=r"part-00001.parquet is damaged: its footer holds no digest of its pages"):
        table.committed_part("part-00001.parquet")


@pytest.mark.parametrize("num_bytes", [0, 3, 200])
def test_a_part_cut_short_is_refused_in_one_line(table, num_bytes):
    path = Path(table.path(NAME))
    path.write_bytes(path.read_bytes()[:num_bytes])
    for read in (table.read_part, table.committed_part, table.check_part):
        with pytest.raises(InputError, match=f"{NAME} is damaged"):
            read(NAME)


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (lambda path: None, "it is missing"),
        (lambda path: path.mkdir(), "a folder is in its place"),
        (lambda path: path.symlink_to("nowhere"), "it is missing"),
        (lambda path: path.symlink_to(path), "a link that leads to itself is in its place"),
        (os.mkfifo, "a pipe, a socket or a device is in its place"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device is in its place"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(table, put, why):
    name = "part-00001.parquet"
    put(Path(table.path(name)))
    for read in (table.read_part, table.committed_part, table.check_part):
        with pytest.raises(Damaged, match=f"{name} is damaged: {why}; delete it and start the same command again$"):
            read(name)


def test_parts_that_were_written_without_checksums_are_still_read(table):
    rows = table.read_part(NAME)
    pq.write_table(rows, table.path("part-00001.parquet"))
    assert table.read_part("part-00001.parquet").equals(rows)
