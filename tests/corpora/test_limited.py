"""A reader's own process: what it says when it fails, that it copies no more than it must, and that it ends."""

import io
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from llambert.corpora.limited import NotStarted, ReaderFault, read_limited
from llambert.errors import InputError

# A program that reads in another process, prints the number of that process, and waits to be killed.
WAITS = """
import io, os, sys, time
from llambert.corpora.limited import read_limited
from tests.corpora import test_limited
results = read_limited(getattr(test_limited, sys.argv[1]), io.BytesIO())
print(next(results), flush=True)
{then}
"""


def own_number(_):
    yield os.getpid()


def own_number_then_a_long_page(_):
    yield os.getpid()
    time.sleep(600)


def pieces(stream):
    while piece := stream.read(3):
        yield piece


def last_rows(_, num):
    yield pa.table({"text": ["a" * 1000] * 10_000}).slice(10_000 - num)


def raises(_, kind, message, cause=None):
    yield 1
    raise kind(message) from (cause and cause())


def variable(_, name):
    yield os.environ.get(name)


def ends(_, how):
    yield 1
    how(9)


def end_by_signal(number):
    os.kill(os.getpid(), number)


def allocates(_, num_bytes):
    yield len(bytes(num_bytes))


def is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("read", "then"),
    [
        ("own_number", "list(results); time.sleep(600)"),
        ("own_number", "time.sleep(600)"),
        ("own_number_then_a_long_page", "list(results)"),
        ("own_number", "os.fork() or (os.setsid(), time.sleep(20), os._exit(0)); time.sleep(600)"),
    ],
    ids=["idle", "between results", "busy", "with a fork of its parent alive"],
)
def test_the_process_ends_when_its_parent_is_killed(read, then):
    program = [sys.executable, "-c", WAITS.format(then=then), read]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        number = int(parent.stdout.readline())
        time.sleep(1)
        assert is_running(number)
        parent.kill()
        parent.stdout.close()
    ends_at = time.monotonic() + 15
    while is_running(number) and time.monotonic() < ends_at:
        time.sleep(0.05)
    assert not is_running(number)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_ends_with_its_parent_and_no_result_is_lost_in_a_fork():
    then = "pid = os.fork()\nif not pid: del results; os._exit(0)\nos.waitpid(pid, 0); print(list(results))"
    program = [sys.executable, "-c", WAITS.format(then=then), "own_number"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    number, rest = done.stdout.splitlines()
    assert rest == "[]"
    assert not is_running(int(number))


def test_a_file_is_read_for_the_process():
    assert list(read_limited(pieces, io.BytesIO(b"abcdefgh"))) == [b"abc", b"def", b"gh"]


def test_some_rows_of_a_table_cost_no_more_than_they_are():
    [rows] = read_limited(last_rows, io.BytesIO(), 2)
    assert rows.to_pylist() == [{"text": "a" * 1000}] * 2
    assert rows.get_total_buffer_size() < 10_000


@pytest.mark.parametrize(
    ("arguments", "raised", "message"),
    [
        ((EOFError, "ends\ntoo early"), ReaderFault, "^ends too early$"),
        ((ConnectionResetError, "by peer"), ReaderFault, "^by peer$"),
        ((InputError, "a: no column"), InputError, "^a: no column$"),
        ((pa.ArrowInvalid, "damaged"), ReaderFault, "^damaged$"),
        ((ValueError, "while generating", MemoryError), MemoryError, "it needs more"),
    ],
)
def test_what_a_reader_raises_is_one_line_and_the_process_goes_on(arguments, raised, message):
    [first] = read_limited(own_number, io.BytesIO())
    with pytest.raises(raised, match=message):
        list(read_limited(raises, io.BytesIO(), *arguments))
    [then] = read_limited(own_number, io.BytesIO())
    assert (first == then) == (raised is not MemoryError)


@pytest.mark.parametrize(
    ("how", "message"), [(end_by_signal, "ended by SIGKILL"), (os._exit, "ended with status 9")], ids=["signal", "exit"]
)
def test_a_process_that_ends_says_how(how, message):
    with pytest.raises(MemoryError, match=message):
        list(read_limited(ends, io.BytesIO(), how))
    assert signal.SIGKILL == 9


def test_more_memory_than_the_limit_is_refused_by_the_kernel():
    with pytest.raises(MemoryError):
        list(read_limited(allocates, io.BytesIO(), 1 << 30, limit=512 << 20))
    assert list(read_limited(allocates, io.BytesIO(), 1 << 20, limit=512 << 20)) == [1 << 20]


def test_a_process_that_cannot_start_is_no_fault_of_the_file(monkeypatch, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\necho Traceback >&2\necho 'no module llambert' >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("LLAMBERT_TEST", "another environment")  # so that none is idle
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(NotStarted, match="ended with status 3: no module llambert"):
        list(read_limited(own_number, io.BytesIO()))


def test_the_process_has_the_environment_of_its_parent(monkeypatch):
    for value in ("a", "b"):
        monkeypatch.setenv("LLAMBERT_TEST", value)
        assert list(read_limited(variable, io.BytesIO(), "LLAMBERT_TEST")) == [value]
