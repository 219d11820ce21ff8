"""The state of a training: stored by a thread while training goes on, and read by what resumes a killed one."""

import functools
import io
import threading
import time
import uuid
from collections.abc import Callable
from typing import IO, Any, Self

import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from llambert import stopping
from llambert.errors import Damaged, InputError, one_line
from llambert.storage.atomic import remove_temporaries
from llambert.storage.run_directory import DELETE, TableDirectory
from llambert.storage.upload_process import written_elsewhere

STATE = "state.pt"
STATE_ID = "id"
"""Key of a state under which a random name is stored with it: two that were read are the same or not."""


class TrainingStates:
    """The last state of a training, in the run's ``training`` table.

    ``save`` copies a state into host memory and returns; a thread stores it, on remote storage by another process. The
    file is replaced whole: a state that was not stored to its end is never read. There is one copy at most: while it is
    stored, no other is made.

    On leaving the block an upload under way is abandoned, since the result is stored; after an exception it is
    finished, since training will be resumed.
    """

    def __init__(self, table: TableDirectory, every_s: float) -> None:
        self._table, self._every_s = table, every_s
        self._begun_at = time.monotonic()
        self._state: dict[str, Any] | None = None
        self._files: dict[str, bytes] = {}  # the latest content of each, waiting
        self._error: Exception | None = None
        self._is_swept = self._is_closed = self._is_abandoned = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def latest(self) -> dict[str, Any] | None:
        """The state stored last, None if there is none; ``Damaged`` if it is none of a training or cut short."""
        if STATE not in self._table.file_names():
            return None
        return _load(self._table.read_file(STATE), f"{self._table.uri}/{STATE}")

    def save(self, state: Callable[[], dict[str, Any]]) -> bool:
        """Begin to store ``state()`` if that is due and the one before is stored; whether it was begun.

        Raises what storing the one before raised.
        """
        self._raise_error()
        with self._changed:
            is_busy = self._state is not None
        now = time.monotonic()
        if is_busy or now - self._begun_at < self._every_s:
            return False
        self._begun_at = now
        self._hand_over({STATE_ID: uuid.uuid4().hex, **_copy(state())}, {})
        return True

    def save_file(self, name: str, content: bytes) -> None:
        """Store a file beside the state; of several contents that wait, the latest."""
        self._raise_error()
        self._hand_over(None, {name: content})

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _hand_over(self, state: dict[str, Any] | None, files: dict[str, bytes]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._store, name="training-states", daemon=True)
            self._thread.start()
        with self._changed:
            self._state = state or self._state
            self._files |= files
            self._changed.notify_all()

    # In the thread

    def _store(self) -> None:
        """Store what is handed over until the block is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._files or self._state is not None or self._is_closed)
                if self._is_abandoned or not (self._files or self._state is not None):
                    return
                files, self._files = self._files, {}
            try:
                if not self._is_swept:  # what a killed training left
                    remove_temporaries(self._table.filesystem, self._table.path(), of=STATE)
                    self._is_swept = True
                for name, content in files.items():
                    self._table.write_file(name, content)
                if self._state is not None:
                    self._store_state(self._state)
            except FileNotFoundError:
                pass  # another driver on the same run removed it: it resumes training, or has ended it
            except Exception as error:
                self._error = error
            finally:
                with self._changed:
                    self._state = None

    def _store_state(self, state: dict[str, Any]) -> None:
        writing = functools.partial(self._table.writing_file, STATE)
        is_here = isinstance(self._table.filesystem, LocalFileSystem | MemoryFileSystem)
        with writing() if is_here else written_elsewhere(writing) as file:
            stream = _Stream(file, lambda: self._is_abandoned)
            torch.save(state, stream)  # type: ignore[arg-type]  # it writes and flushes, no more
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._is_closed, self._is_abandoned = True, kind is None
            self._changed.notify_all()
        if self._thread is not None and stopping.stopped_by() is None:  # a stopped program waits for nothing
            self._thread.join()


def agreed_state(
    latest: Callable[[], dict[str, Any] | None], gathered: Callable[[Any], list[Any]]
) -> dict[str, Any] | None:
    """The same latest state on every worker, each of which calls this; ``gathered`` returns what all have given it.

    A worker that was taken for lost may store its last state between the looks of two others, which would then train
    different weights. ``InputError`` of any worker is raised on all.
    """
    while True:
        state, fault = None, None
        try:
            state = latest()
        except InputError as error:
            fault = error
        found = gathered((fault, state and state[STATE_ID]))
        if fault := next((fault for fault, _ in found if fault is not None), None):
            raise fault
        if len({name for _, name in found}) == 1:
            return state


class _Abandoned(Exception):
    """The state is not needed any more."""


class _Stream:
    """What ``torch.save`` writes to. After a fault, or when the state is abandoned, the rest is dropped.

    An exception in the midst of ``torch.save`` would come out of it as another one, without its type.
    """

    def __init__(self, file: IO[bytes], is_abandoned: Callable[[], bool]) -> None:
        self._file, self._is_abandoned = file, is_abandoned
        self._error: Exception | None = None

    def write(self, content: memoryview) -> int:
        """Pass the bytes on."""
        if self._error is None and self._is_abandoned():
            self._error = _Abandoned()
        if self._error is None:
            try:
                self._file.write(content)
            except Exception as error:
                self._error = error
        return len(content)

    def flush(self) -> None:
        """Called by ``torch.save``; the file is flushed when it is closed."""

    def close(self) -> None:
        """Raise the fault, if there was one."""
        if self._error is not None:
            raise self._error


def _copy(value: Any) -> Any:
    """A copy whose tensors are in host memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


def _load(content: bytes, uri: str) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make the unpickler do
        raise Damaged(uri, f"it is no state of a training: {one_line(error)}", DELETE) from error
    if not isinstance(state, dict) or STATE_ID not in state:
        raise Damaged(uri, "it is no state of a training", DELETE)
    return state
