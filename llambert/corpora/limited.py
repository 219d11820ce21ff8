"""A process with little memory for readers whose input may ask for any amount of it.

A Parquet file of a hundred bytes can claim a dictionary of eight gigabytes or repeat a text a billion times, and no
setting of Arrow's bounds what it allocates. So a reader runs where the kernel refuses more than ``LIMIT_BYTES``, and
where a crash of native code takes nothing with it. The process stays for the next file; files are read for it by its
parent, which holds the credentials.
"""

import atexit
import contextlib
import io
import os
import pickle
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

import pyarrow as pa

from llambert.errors import InputError, one_line

Result = TypeVar("Result")

LIMIT_BYTES = 2 << 30

# Of the C library: what is freed is kept for the next block of rows, where returning it would cost page faults.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
_START = "import sys; sys.path[:] = {path!r}; from llambert.corpora.limited import serve; serve({number})"
_STDERR_BYTES = 2000


class ReaderFault(Exception):
    """Why a reader has failed, in one line; not for want of memory."""


class NotStarted(Exception):
    """The process cannot be started: a fault of the installation, not of a file."""


def read_limited(
    read: Callable[..., Iterator[Result]], stream: IO[bytes], *arguments: Any, limit: int = LIMIT_BYTES
) -> Iterator[Result]:
    """``read(stream, *arguments)`` of another process, which may take ``limit`` bytes; all but the stream is pickled.

    ``MemoryError`` where that is not enough, or where the process was ended, which its message says; ``ReaderFault``
    for what ``read`` raises, but for ``InputError``, which passes; ``NotStarted`` where no process can be started.
    """
    helper = _idle_helper() or _Helper()
    try:
        yield from helper.results(read, stream, arguments, limit)
    except (InputError, ReaderFault):
        _idle.append(helper)
        raise
    except BaseException:  # also where the caller wants no more of it
        helper.stop()
        raise
    _idle.append(helper)


class _Gone(Exception):
    """The other side has closed the socket."""


class _Channel:
    """Messages over a socket; what tables and bytes hold is written and read without a copy in between."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self.close = ours.close

    def send(self, message: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        content = io.BytesIO()
        _Pickler(content, 5, buffer_callback=buffers.append).dump(message)
        parts: list[memoryview] = [content.getbuffer(), *(buffer.raw() for buffer in buffers)]
        try:
            self._socket.sendall(struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)))
            for part in parts:
                self._socket.sendall(part)
        except OSError as error:
            raise _Gone from error

    def receive(self) -> Any:
        """The next message."""
        [num] = struct.unpack("<Q", self._exactly(8))
        content, *buffers = [self._exactly(size) for size in struct.unpack(f"<{num}Q", self._exactly(8 * num))]
        return pickle.loads(content, buffers=buffers)

    def _exactly(self, num_bytes: int) -> pa.Buffer:
        buffer = pa.allocate_buffer(num_bytes)
        rest = memoryview(buffer)
        while rest:
            try:
                num = self._socket.recv_into(rest)
            except OSError as error:
                raise _Gone from error
            if not num:
                raise _Gone
            rest = rest[num:]
        return buffer


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, pa.Table):
            return NotImplemented
        sink = pa.BufferOutputStream()  # Arrow pickles all that a slice is a slice of
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return _table, (pickle.PickleBuffer(sink.getvalue()),)


def _table(content: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(content).read_all()


class _Helper:
    """The process, from its parent's side."""

    def __init__(self) -> None:
        self.environment, self._parent = dict(os.environ), os.getpid()
        ours, theirs = socket.socketpair()
        self._channel, self._said = _Channel(ours), tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            start = _START.format(path=sys.path, number=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                env={**os.environ, **_ALLOCATION},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                start_new_session=True,  # an interrupt of the terminal ends it through its parent
            )
        _all.add(self)
        try:
            self._channel.receive()
        except _Gone as error:
            ended = self._end()
            self.stop()
            raise NotStarted(f"the process that reads files cannot be started: {ended}") from error

    def results(self, read: Callable[..., Any], stream: IO[bytes], arguments: tuple[Any, ...], limit: int) -> Any:
        kind, value = self._ask((read, arguments, stream.seek(0, os.SEEK_END), limit))
        while kind != "end":
            if kind == "bytes":
                stream.seek(value[0])
                kind, value = self._ask(pickle.PickleBuffer(stream.read(value[1])))
            elif kind == "result":
                yield value
                kind, value = self._ask()
            else:
                raise {"input": InputError, "memory": MemoryError, "fault": ReaderFault}[kind](value)

    def _ask(self, message: Any = None) -> Any:
        """What the process says next, after ``message`` was sent."""
        try:
            if message is not None:
                self._channel.send(message)
            return self._channel.receive()
        except _Gone as error:
            raise MemoryError(self._end()) from error

    def _end(self) -> str:
        """How the process ended, whose socket is closed."""
        status = self._process.wait()
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        self._said.seek(max(self._said.seek(0, os.SEEK_END) - _STDERR_BYTES, 0))
        last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"ended with status {status}: {one_line(RuntimeError(last))}"

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.forget()
        if os.getpid() == self._parent:  # not a fork of it
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Leave it to the process that started it."""
        self._channel.close()
        self._said.close()


_idle: list[_Helper] = []
_all: weakref.WeakSet[_Helper] = weakref.WeakSet()


def _idle_helper() -> _Helper | None:
    """One that is free, started with the variables of the environment as they are."""
    with contextlib.suppress(IndexError):  # another thread was faster
        while _idle:
            helper = _idle.pop()
            if helper.environment == dict(os.environ):
                return helper
            helper.stop()
    return None


def _forget_all() -> None:
    """In a fork: with its copies of the sockets, the processes would outlive their parent."""
    _idle.clear()
    for helper in list(_all):
        helper.forget()


os.register_at_fork(after_in_child=_forget_all)


@atexit.register
def _stop_all() -> None:
    while _idle:
        _idle.pop().stop()


def serve(number: int) -> None:
    """The process: one request after another from the socket of this number, until its parent is gone."""
    pa.set_memory_pool(pa.system_memory_pool())  # reserves no address space in advance, and returns what is free
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = _Channel(socket.socket(fileno=number))
    threading.Thread(target=_end_with_parent, args=[number], daemon=True).start()
    with contextlib.suppress(_Gone):
        channel.send("ready")
        while True:
            channel.send(_answer(channel, *channel.receive()))


def _end_with_parent(number: int) -> None:
    """Also amid a page that takes minutes, from which nothing is sent."""
    poll = select.poll()
    poll.register(number, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)


def _answer(
    channel: _Channel, read: Callable[..., Any], arguments: tuple[Any, ...], size: int, limit: int
) -> tuple[str, str]:
    """The end of one reading, whose results were sent."""
    with _limited_memory(limit):
        try:
            for result in read(_RemoteFile(channel, size), *arguments):
                channel.send(("result", result))
        except InputError as error:
            return "input", str(error)
        except Exception as error:  # of whatever library reads
            if _is_memory_error(error):
                return "memory", "it needs more"
            return "fault", one_line(error)
    return "end", ""


def _is_memory_error(error: BaseException | None) -> bool:
    """Whether it is, or a library made it of, a ``MemoryError``; Arrow's is one too."""
    return error is not None and (isinstance(error, MemoryError) or _is_memory_error(error.__cause__))


@contextlib.contextmanager
def _limited_memory(num_bytes: int) -> Iterator[None]:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    with contextlib.suppress(ValueError, OSError):  # a system, such as macOS, that has no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes if hard < 0 else min(num_bytes, hard), hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


class _RemoteFile(io.RawIOBase):
    """The parent's file."""

    def __init__(self, channel: _Channel, size: int) -> None:
        self._channel, self._size, self._place = channel, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        num = max(self._size - self._place, 0) if size < 0 else min(size, self._size - self._place)
        if num <= 0:
            return b""
        self._channel.send(("bytes", (self._place, num)))
        content = bytes(self._channel.receive())
        self._place += len(content)
        return content
