"""A file written to remote storage by a process of its own.

What uploads in Python holds the interpreter's lock a good part of the time, and what trains beside it would wait for
it (tests/benchmarks/bench_checkpoints.py). The process gets the content through a pipe. It stores the file only when
it is told that this is all, so that a caller which is killed leaves what there was.
"""

import contextlib
import io
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, BinaryIO, cast

_START = "import sys; sys.path[:] = {path!r}; from llambert.storage.upload_process import serve; serve()"
_ALL = 0  # the length of the frame that says so; the pipe's end without it says that the content is not whole
_CHUNK = 16 << 20


@contextlib.contextmanager
def written_elsewhere(writing: Callable[[], AbstractContextManager[IO[bytes]]]) -> Iterator[IO[bytes]]:
    """A stream whose content another process writes to that of ``writing()``, which is pickled.

    What it raises there is raised here. An exception in the block leaves the block of ``writing()`` by one too.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(path=sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pipe = _Pipe(process.stdin)
    try:
        pipe.write(pickle.dumps(writing))
        yield cast(IO[bytes], pipe)
        pipe.end()
        _raise_fault(process.stdout.read(), process)
    except BrokenPipeError:
        _raise_fault(process.stdout.read(), process)
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        process.stdout.close()


def _raise_fault(answer: bytes, process: subprocess.Popen) -> None:
    """Raise what the other process raised, if it did; ``OSError`` where it said nothing."""
    if not answer:
        raise OSError(f"the process that stores a file was ended (exit status {process.wait()})")
    if (fault := pickle.loads(answer)) is not None:
        raise fault


class _Pipe(io.RawIOBase):
    """Sends what is written in frames."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def write(self, content: bytes | memoryview) -> int:  # type: ignore[override]
        """One frame; nothing for no content, whose frame would say that this is all."""
        if size := memoryview(content).nbytes:
            self._pipe.write(struct.pack("<Q", size))
            self._pipe.write(content)
        return size

    def end(self) -> None:
        """Say that this is all."""
        self._pipe.write(struct.pack("<Q", _ALL))
        self._pipe.flush()


class _Cut(Exception):
    """The content ended before it was said to be whole."""


def serve() -> None:
    """The other process: see the module."""
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with its parent, whose group may be told to end
        signal.signal(number, signal.SIG_IGN)
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    fault: BaseException | None = None
    try:
        writing = pickle.loads(b"".join(_frame(source)))
        with writing() as stream:
            while chunk := next(frame := _frame(source), None):
                stream.write(chunk)
                for chunk in frame:
                    stream.write(chunk)
    except _Cut:
        return
    except Exception as error:
        fault = error
    with contextlib.suppress(BrokenPipeError):
        answers.write(_pickled(fault))
        answers.flush()


def _frame(source: BinaryIO) -> Iterator[bytes]:
    """The content of the next frame in pieces, none where it says that this is all; ``_Cut`` where there is none."""
    head = source.read(8)
    if len(head) < 8:
        raise _Cut
    [rest] = struct.unpack("<Q", head)
    while rest:
        chunk = source.read(min(rest, _CHUNK))
        if not chunk:
            raise _Cut
        rest -= len(chunk)
        yield chunk


def _pickled(fault: BaseException | None) -> bytes:
    try:
        return pickle.dumps(pickle.loads(pickle.dumps(fault)))
    except Exception:  # an exception that cannot be sent as it is
        return pickle.dumps(OSError(str(fault)))
