"""A file that another process writes is stored whole, or not at all, and its faults are told here."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from llambert.errors import InputError
from llambert.storage.run_directory import TableDirectory
from llambert.storage.upload_process import written_elsewhere

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def refusing():
    raise InputError("no space")
    yield


@contextmanager
def breaking_off():
    class Stream:
        def write(self, content):
            raise PermissionError(13, "not yours")

    yield Stream()


def writing(folder: Path) -> partial:
    return partial(TableDirectory(str(folder)).writing_file, "state.pt")


def test_all_that_was_written_is_stored_by_another_process(tmp_path):
    with written_elsewhere(writing(tmp_path)) as stream:
        stream.write(b"one")
        stream.write(b"")
        stream.write(memoryview(bytes(40 << 20)))
        assert len(psutil.Process().children()) >= 1
    assert (tmp_path / "state.pt").read_bytes() == b"one" + bytes(40 << 20)


def test_an_exception_in_the_block_leaves_what_there_was(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"before")
    with pytest.raises(ArithmeticError), written_elsewhere(writing(tmp_path)) as stream:  # noqa: PT012
        stream.write(bytes(1 << 20))
        raise ArithmeticError
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert (tmp_path / "state.pt").read_bytes() == b"before"


@pytest.mark.parametrize(("where", "fault"), [(refusing, InputError), (breaking_off, PermissionError)])
@pytest.mark.parametrize("num_bytes", [10, 5 << 20])
def test_what_the_other_process_raises_is_raised_here(where, fault, num_bytes):
    with pytest.raises(fault, match=r"no space|not yours"), written_elsewhere(where) as stream:
        stream.write(bytes(num_bytes))


def test_a_process_that_is_killed_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="was ended"), written_elsewhere(writing(tmp_path)) as stream:  # noqa: PT012
        stream.write(b"one")
        for child in psutil.Process().children():
            if "upload_process" in " ".join(child.cmdline()):
                child.kill()
                child.wait()
        stream.write(bytes(1 << 20))
    assert list(tmp_path.glob("state.pt")) == []


def test_when_the_writer_is_killed_nothing_is_stored_and_no_process_stays(tmp_path):
    program = f"""
import sys, time
from functools import partial
from llambert.storage.run_directory import TableDirectory
from llambert.storage.upload_process import written_elsewhere
with written_elsewhere(partial(TableDirectory({str(tmp_path)!r}).writing_file, "state.pt")) as stream:
    stream.write(bytes(1 << 20))
    print("written", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert writer.stdout.readline() == b"written\n"
    others = psutil.Process(writer.pid).children()
    assert others
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert psutil.wait_procs(others, timeout=20)[1] == []
    deadline = time.monotonic() + 10
    while list(tmp_path.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
