"""Faults that would recur, for which no worker is restarted."""

import json
import sys
import traceback
import uuid
from dataclasses import dataclass, field
from typing import Self

from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from torch.distributed import DistError

from llambert.errors import InputError, described
from llambert.execution.failures import Attempts, Failure, Verdict
from llambert.passing_faults import is_passing

_PROGRAMMING_ERRORS = (
    *(TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(ImportError, NameError, NotImplementedError, SyntaxError),
)
# Of the others of a group whose one worker failed, PyTorch says that it is broken.
_INFRASTRUCTURE_ERRORS = (OSError, RayError, DistError)


@dataclass(frozen=True)
class Fault:
    """An exception as text, for the way to the driver."""

    summary: str
    traceback: str
    passes: bool = False

    def to_error(self, stage: str) -> Exception:
        """The driver's exception: one line for a device's fault, else with the worker's traceback as a note."""
        if self.passes:
            return InputError(f"{self.summary}; what is stored is kept")
        error = RuntimeError(
            f"{stage}: {self.summary}; it would fail in the same way again and is not retried; what is stored is kept"
        )
        error.add_note(self.traceback)
        return error


@dataclass(frozen=True)
class Faults:
    """The failures of the workers of one stage, in Ray's own store, which outlives them.

    A fault would recur if its type says so (a ``TypeError`` is no lost machine), or if it recurred: the same
    exception at the same place of the same worker. A fault of storage, network or Ray never does. That of a GPU does
    where a second node has it too, or a second process of the only node that has what a worker ``needs``.
    """

    needs: dict[str, float]
    prefix: str = field(default_factory=lambda: f"llambert-faults-{uuid.uuid4().hex}-")

    def add(self, error: Exception, worker: int, place: int | None, began_at: float) -> Fault | None:
        """Note that ``worker`` failed at ``place`` of its work (None: before it began); the fault if it would recur.

        ``began_at``: when its process did.
        """
        if isinstance(error, _INFRASTRUCTURE_ERRORS):
            return None
        if is_passing(error):
            return self._add_passing(error, began_at)
        fault = Fault(described(error), "".join(traceback.format_exception(error)))
        key, this = f"{self.prefix}{worker}".encode(), json.dumps([fault.summary, place]).encode()
        if not isinstance(error, _PROGRAMMING_ERRORS) and _internal_kv_get(key) != this:
            _internal_kv_put(key, this, overwrite=True)
            return None
        _internal_kv_put(f"{self.prefix}found".encode(), json.dumps(fault.__dict__).encode(), overwrite=True)
        return fault

    def _add_passing(self, error: Exception, began_at: float) -> Fault | None:
        attempts = Attempts("finetune", sys.maxsize, self.needs, prefix=self.prefix)
        failure, earlier = Failure.of(error), attempts.failures()
        attempts.add(failure)
        if failure.verdict(earlier, began_at, sys.maxsize, attempts.has_other_node(failure.node)) != Verdict.GIVE_UP:
            return None
        fault = Fault(str(failure.to_error("finetune", earlier)), failure.traceback, passes=True)
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
