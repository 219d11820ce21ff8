"""Training states are stored while training goes on: whole, one at a time, and none that the result made needless."""

import errno
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from llambert.errors import Damaged, InputError
from llambert.execution.training_states import STATE, STATE_ID, TrainingStates, agreed_state
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.s3_server import running_server

NUM = 300_000  # floats: more than one write of torch.save


class SlowTable(TableDirectory):
    """Storage that takes the first bytes of a state and no more until it is told to."""

    @contextmanager
    def writing_file(self, name):
        with super().writing_file(name) as file:
            file.write(b"")
            self.__dict__.setdefault("reached", threading.Event()).set()
            assert self.__dict__.setdefault("free", threading.Event()).wait(30)
            yield file


def slow(folder) -> SlowTable:
    table = SlowTable(str(folder))
    table.__dict__.update(reached=threading.Event(), free=threading.Event())
    return table


def state(step: int, weights: torch.Tensor | None = None):
    return lambda: {"step": step, "model": {"w": torch.full((NUM,), float(step)) if weights is None else weights}}


def wait_until_stored(states: TrainingStates, step: int) -> dict:
    deadline = time.monotonic() + 30
    while (found := states.latest()) is None or found["step"] != step:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def save_until_begun(states: TrainingStates, step: int) -> None:
    deadline = time.monotonic() + 30
    while not states.save(state(step)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def failed_training(table: TableDirectory):
    """The states of a training that fails at the end of the block."""
    with pytest.raises(ArithmeticError), TrainingStates(table, 0.0) as states:  # noqa: PT012
        yield states
        raise ArithmeticError


def test_training_goes_on_while_a_state_is_stored_as_it_was_and_the_next_one_is_not_queued(tmp_path):
    table, weights = slow(tmp_path), torch.ones(NUM)
    with TrainingStates(table, 0.0) as states:
        assert states.latest() is None
        assert states.save(state(1, weights))
        weights.fill_(2.0)  # training goes on
        assert table.reached.wait(30)
        assert not states.save(lambda: pytest.fail("a second copy was made"))
        assert states.latest() is None
        table.free.set()
        assert torch.equal(wait_until_stored(states, 1)["model"]["w"], torch.ones(NUM))
        save_until_begun(states, 2)
        wait_until_stored(states, 2)


def test_a_state_is_stored_once_in_the_interval(tmp_path):
    with TrainingStates(TableDirectory(str(tmp_path)), 0.5) as states:
        began, begun = time.monotonic(), []
        while (now := time.monotonic() - began) < 1.4:
            if states.save(state(1)):
                begun.append(now)
            time.sleep(0.01)
    assert len(begun) in (1, 2)  # 0.5 and 1.0 s after the beginning, unless this machine is busy
    assert begun[0] > 0.45


def test_an_upload_under_way_is_abandoned_when_training_has_ended_and_finished_when_it_has_failed(tmp_path):
    stored = {}
    for name, training in (("ended", lambda table: TrainingStates(table, 0.0)), ("failed", failed_training)):
        table = slow(tmp_path / name)
        with TrainingStates(TableDirectory(table.uri), 0.0) as states:
            states.save(state(1))
            wait_until_stored(states, 1)
        with training(table) as states:
            states.save(state(2))
            assert table.reached.wait(30)
            threading.Timer(0.2, table.free.set).start()
        stored[name] = states.latest()["step"]
        assert os.listdir(tmp_path / name) == [STATE]  # nothing half written
    assert stored == {"ended": 1, "failed": 2}


def test_what_a_killed_training_left_half_written_is_no_state_and_is_removed(tmp_path):
    leftover = tmp_path / f".{STATE}.{'0' * 32}.tmp"
    leftover.write_bytes(b"half")
    with TrainingStates(TableDirectory(str(tmp_path)), 0.0) as states:
        assert states.latest() is None
        states.save(state(1))
        wait_until_stored(states, 1)
    assert os.listdir(tmp_path) == [STATE]


def test_a_full_disk_is_told_at_the_next_state_in_one_line_and_leaves_the_last(tmp_path, monkeypatch):
    with TrainingStates(TableDirectory(str(tmp_path)), 0.0) as states:
        states.save(state(1))
        wait_until_stored(states, 1)
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        save_until_begun(states, 2)
        with pytest.raises(InputError, match=rf"{STATE}: .*No space left.*fix the storage"):
            save_until_begun(states, 3)
    assert states.latest()["step"] == 1
    assert os.listdir(tmp_path) == [STATE]


def test_a_folder_that_another_driver_removed_meanwhile_stops_nothing(tmp_path):
    table = slow(tmp_path / "training")
    with TrainingStates(table, 0.0) as states:
        states.save(state(1))
        assert table.reached.wait(30)
        for path in Path(table.path()).iterdir():
            path.unlink()
        Path(table.path()).rmdir()
        table.free.set()
        save_until_begun(states, 2)
        wait_until_stored(states, 2)


def test_of_a_file_beside_the_states_the_latest_content_is_stored(tmp_path):
    table = slow(tmp_path)
    with failed_training(table) as states:
        states.save(state(1))
        assert table.reached.wait(30)
        for content in (b"1", b"2", b"3"):
            states.save_file("curves/events", content)
        assert not (tmp_path / "curves").exists()
        table.free.set()
    assert (tmp_path / "curves/events").read_bytes() == b"3"


@pytest.mark.parametrize("content", [b"junk", None])
def test_a_state_that_is_none_is_damaged(tmp_path, content):
    if content is None:
        torch.save({"model": {}}, tmp_path / STATE)
    else:
        (tmp_path / STATE).write_bytes(content)
    with pytest.raises(Damaged, match="it is no state of a training"):
        TrainingStates(TableDirectory(str(tmp_path)), 0.0).latest()


def test_workers_that_read_different_states_read_again():
    looks = [{STATE_ID: "old"}, {STATE_ID: "new"}, {STATE_ID: "new"}]
    other = [(None, "new")] * 3
    assert agreed_state(lambda: looks.pop(0), lambda own: [own, other.pop()]) == {STATE_ID: "new"}
    assert (len(looks), len(other)) == (1, 1)
    with pytest.raises(Damaged, match="cut short"):  # on another worker
        agreed_state(lambda: None, lambda own: [own, (Damaged("state.pt", "cut short", "delete it"), None)])
    assert agreed_state(lambda: None, lambda own: [own, own]) is None


@pytest.mark.slow
@pytest.mark.s3
def test_on_object_storage_a_state_cut_short_leaves_the_last_one(tmp_path, monkeypatch):
    with running_server(tmp_path / "s3"):
        table = TableDirectory("s3://llambert-test/run [a]/training/0")
        with TrainingStates(table, 0.0) as states:
            states.save(state(1))
            wait_until_stored(states, 1)
        for block_size in (5 << 20, 50 << 20):  # parts are uploaded already; nothing is
            filesystem = table.filesystem
            monkeypatch.setattr(filesystem, "default_block_size", block_size)
            with pytest.raises(ArithmeticError), table.writing_file(STATE) as file:  # noqa: PT012
                file.write(bytes(12 << 20))
                raise ArithmeticError
            assert states.latest()["step"] == 1
            assert filesystem.find(table.path()) == [table.path(STATE)]
        with table.writing_file(STATE) as file:
            file.write(bytes(60 << 20))
        assert filesystem.size(table.path(STATE)) == 60 << 20
