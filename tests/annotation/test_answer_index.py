"""The index of an answer store can always be done without: what is damaged of it counts for nothing and is replaced."""

from pathlib import Path

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.answer_store import ASKED, AnswerStore
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.stored_responses import DEFAULTS, key_of

NUM_PARTS = 70  # enough for an index


@pytest.fixture
def table(tmp_path) -> TableDirectory:
    table = TableDirectory(str(tmp_path / "answers" / "a"), schema.ANSWERS)
    for number in range(NUM_PARTS):
        rows = pa.Table.from_pylist([{**DEFAULTS, schema.KEY: key_of(str(number))}], schema=schema.ANSWERS)
        AnswerStore(table).commit("0" * 12, rows)
    AnswerStore(table).save_index()
    return table


def index(table: TableDirectory) -> Path:
    [name] = table.part_names("_index")
    return Path(table.path(name))


def num_read(table: TableDirectory, monkeypatch) -> int:
    """How many files a new process reads to find an answer; it must find all of them."""
    found, read = [], TableDirectory.read_part
    with monkeypatch.context() as patch:
        patch.setattr(TableDirectory, "read_part", lambda *args: found.append(args[1]) or read(*args))
        keys = pa.array([key_of(str(number)) for number in range(NUM_PARTS)], pa.binary(16))
        assert sorted(AnswerStore(table).find(keys).to_pylist()) == table.part_names()
    return len(found)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(bytes(content))


def put_folder(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"PAR1 junk PAR1"), put_folder],
    ids=["a bit", "empty", "junk", "a folder"],
)
def test_an_index_that_cannot_be_read_is_replaced_by_one_of_the_same_parts(table, monkeypatch, damage):
    assert num_read(table, monkeypatch) == 1
    damage(index(table))
    assert num_read(table, monkeypatch) == 1 + NUM_PARTS
    AnswerStore(table).save_index()
    assert index(table).is_file()
    assert num_read(table, monkeypatch) == 1


def test_an_index_that_was_deleted_is_made_again(table, monkeypatch):
    index(table).unlink()
    assert num_read(table, monkeypatch) == NUM_PARTS
    AnswerStore(table).save_index()
    assert num_read(table, monkeypatch) == 1


def test_who_is_asked_is_said_again_where_that_was_lost_and_never_replaced(table):
    store, path = AnswerStore(table), Path(table.path(ASKED))
    store.describe({"annotator": {"mode": "score"}})
    said = path.read_bytes()
    store.describe({"annotator": {"mode": "choice"}})
    assert path.read_bytes() == said
    path.unlink()
    AnswerStore(table).describe({"annotator": {"mode": "score"}})
    assert path.read_bytes() == said
