"""Faults that would recur, for which no worker is restarted."""

import json
import traceback
import uuid
from dataclasses import dataclass, field
from typing import Self

from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from llambert.errors import described

_PROGRAMMING_ERRORS = (
    *(TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(ImportError, NameError, NotImplementedError, SyntaxError),
)
_INFRASTRUCTURE_ERRORS = (OSError, RayError)


@dataclass(frozen=True)
class Fault:
    """An exception as text, for the way to the driver."""

    summary: str
    traceback: str

    def to_error(self, stage: str) -> RuntimeError:
        """The driver's exception, with the worker's traceback as a note."""
        error = RuntimeError(
            f"{stage}: {self.summary}; it would fail in the same way again and is not retried; what is stored is kept"
        )
        error.add_note(self.traceback)
        return error


@dataclass(frozen=True)
class Faults:
    """The failures of the workers of one stage, in Ray's own store, which outlives them.

    A fault would recur if its type says so (a ``TypeError`` is no lost machine), or if it recurred: the same
    exception at the same place of the same worker. A fault of storage, network or Ray never does.
    """

    prefix: str = field(default_factory=lambda: f"llambert-faults-{uuid.uuid4().hex}-")

    def add(self, error: Exception, worker: int, place: int | None) -> Fault | None:
        """Note that ``worker`` failed at ``place`` of its work (None: before it began); the fault if it would recur."""
        if isinstance(error, _INFRASTRUCTURE_ERRORS):
            return None
        fault = Fault(described(error), "".join(traceback.format_exception(error)))
        key, this = f"{self.prefix}{worker}".encode(), json.dumps([fault.summary, place]).encode()
        if not isinstance(error, _PROGRAMMING_ERRORS) and _internal_kv_get(key) != this:
            _internal_kv_put(key, this, overwrite=True)
            return None
        _internal_kv_put(f"{self.prefix}found".encode(), json.dumps(fault.__dict__).encode(), overwrite=True)
        return fault

    def found(self) -> Fault | None:
        """A fault that would recur, of whichever worker."""
        stored = _internal_kv_get(f"{self.prefix}found".encode())
        return Fault(**json.loads(stored)) if stored else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _internal_kv_del(self.prefix.encode(), del_by_prefix=True)
