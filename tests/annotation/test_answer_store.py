"""The answer store: what was asked is found, whoever asked, whatever is lost of the index."""

import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from llambert import schema
from llambert.annotation.answer_store import AnswerReader, AnswerStore
from llambert.errors import Damaged
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.stored_responses import DEFAULTS, key_of

NUM_PARTS = 130


@pytest.fixture
def table(tmp_path) -> TableDirectory:
    return TableDirectory(str(tmp_path / "answers" / "a"), schema.ANSWERS)


def rows(*names: str, response: str = "yes") -> pa.Table:
    found = [{schema.KEY: key_of(name), **DEFAULTS, schema.RESPONSE: f"{response} {name}"} for name in names]
    return pa.Table.from_pylist(found, schema=schema.ANSWERS)


def keys(*names: str) -> pa.Array:
    return pa.array([key_of(name) for name in names], pa.binary(16))


def fill(table: TableDirectory, num: int = NUM_PARTS) -> list[str]:
    store = AnswerStore(table)
    return [store.commit("0" * 12, rows(f"{n} a", f"{n} b")).name for n in range(num)]


def reads(table: TableDirectory, monkeypatch) -> list[str]:
    """The names of the parts read from now on."""
    found: list[str] = []
    read = TableDirectory.read_part
    monkeypatch.setattr(TableDirectory, "read_part", lambda self, name, *a: found.append(name) or read(self, name, *a))
    return found


def test_an_answer_is_found_by_every_store_of_the_folder_and_at_once(table):
    reader = AnswerStore(table)
    assert reader.find(keys("x", "y")).to_pylist() == [None, None]
    part = AnswerStore(table).commit("0" * 12, rows("x"))
    assert reader.find(keys("y", "x", "x")).to_pylist() == [None, part.name, part.name]
    assert reader.num_answers == 1


def test_of_two_writers_of_the_same_questions_the_first_one_wins(table):
    first = AnswerStore(table).commit("0" * 12, rows("x", "y", response="first"))
    assert AnswerStore(table).commit("0" * 12, rows("x", "y", response="second")) == first
    assert table.part_names() == [first.name]
    answers = AnswerReader(table, [schema.RESPONSE]).read(
        pa.chunked_array([keys("y")]), pa.chunked_array([[first.name]])
    )
    assert answers[schema.RESPONSE].to_pylist() == ["first y"]


def test_of_two_answers_to_a_question_the_first_by_name_counts_for_everyone(table):
    late, early = AnswerStore(table).commit("f" * 12, rows("x")), AnswerStore(table).commit("0" * 12, rows("x", "y"))
    assert AnswerStore(table).find(keys("x")).to_pylist() == [early.name] != [late.name]


def test_an_index_saves_reading_every_part(table, monkeypatch):
    names = fill(table)
    AnswerStore(table).save_index()
    more = AnswerStore(table).commit("0" * 12, rows("late"))
    found = reads(table, monkeypatch)
    store = AnswerStore(table)
    assert store.find(keys("7 b", "late", "129 a")).to_pylist() == [names[7], more.name, names[129]]
    assert len(found) == 2
    assert store.num_answers == 2 * NUM_PARTS + 1


def test_few_parts_have_no_index_and_a_new_index_replaces_the_old_one(table):
    fill(table, 20)
    AnswerStore(table).save_index()
    assert table.part_names("_index") == []
    fill(table, 80)
    AnswerStore(table).save_index()
    (first,) = table.part_names("_index")
    AnswerStore(table).save_index()
    assert table.part_names("_index") == [first]
    fill(table, 160)
    AnswerStore(table).save_index()
    (second,) = table.part_names("_index")
    assert second != first


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1 no"), None])
def test_a_damaged_index_or_one_of_removed_parts_changes_nothing(table, damage):
    names = fill(table)
    AnswerStore(table).save_index()
    (index,) = table.part_names("_index")
    if damage:
        damage(Path(table.path(index)))
    Path(table.path(names[3])).unlink()
    store = AnswerStore(table)
    assert store.find(keys("3 a", "4 a")).to_pylist() == [None, names[4]]
    store.save_index()
    assert AnswerStore(table).find(keys("3 a", "4 a", "129 b")).to_pylist() == [None, names[4], names[129]]


def test_temporary_files_of_killed_writers_are_swept_and_those_of_live_ones_are_not(table, monkeypatch):
    import llambert.storage.atomic as module

    fill(table, 2)
    abandoned = Path(table.path(".part-000000000000-0123456789ab.parquet.0.tmp"))
    abandoned.write_bytes(b"PAR1")
    os.utime(abandoned, (time.time() - 2 * 86_400,) * 2)
    link, is_written, is_swept = os.link, threading.Event(), threading.Event()

    def waiting(*arguments):
        is_written.set()
        assert is_swept.wait(60)
        link(*arguments)

    monkeypatch.setattr(module.os, "link", waiting)
    writer = threading.Thread(target=lambda: AnswerStore(table).commit("0" * 12, rows("live")))
    writer.start()
    assert is_written.wait(60)
    AnswerStore(table).save_index()
    assert not abandoned.exists()
    assert len(list(Path(table.path()).glob(".*.tmp"))) == 1
    is_swept.set()
    writer.join()
    assert AnswerStore(table).find(keys("live")).null_count == 0


def test_writers_and_readers_at_once_lose_nothing(table):
    def write(number: int) -> None:
        store = AnswerStore(table)
        for n in range(30):
            store.commit(f"{number:012d}", rows(f"{number} {n}"))
            store.save_index()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = keys(*(f"{number} {n}" for number in range(4) for n in range(30)))
    assert AnswerStore(table).find(wanted).null_count == 0


def test_a_reader_gives_nulls_where_there_is_no_answer_and_refuses_a_part_without_the_key(table):
    part = AnswerStore(table).commit("0" * 12, rows("x"))
    reader = AnswerReader(table, [schema.RESPONSE, schema.NUM_PROMPT_TOKENS])
    found = reader.read(pa.chunked_array([keys("x", "y")]), pa.chunked_array([[part.name, None]]))
    assert found.to_pylist() == [
        {"response": "yes x", "num_prompt_tokens": 10},
        {"response": None, "num_prompt_tokens": None},
    ]
    with pytest.raises(Damaged, match="lacks answers"):
        reader.read(pa.chunked_array([keys("y")]), pa.chunked_array([[part.name]]))
    nothing = reader.read(pa.chunked_array([keys("y")]), pa.chunked_array([[None]], pa.string()))
    assert nothing.to_pylist() == [{"response": None, "num_prompt_tokens": None}]
