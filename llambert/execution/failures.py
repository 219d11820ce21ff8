"""Failures of units and of workers that cannot start: kept outside the processes that failed, and judged."""

import hashlib
import json
import time
import traceback
import uuid
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Self

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

from llambert.errors import InputError, described, one_line
from llambert.passing_faults import PassingFault, fault_kind, is_passing


class Verdict(Enum):
    """What follows a failure: another process on the same node, another node, or the end of the stage."""

    AGAIN = "again"
    ELSEWHERE = "elsewhere"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Failure:
    """One attempt that raised: ``unit`` is empty where no worker could be made. ``at``: seconds since the epoch."""

    unit: str
    summary: str
    kind: str
    passes: bool
    actor: str
    node: str
    address: str
    at: float
    traceback: str = field(repr=False)

    @classmethod
    def of(cls, error: Exception, unit: str = "") -> Self:
        """The failure of this process."""
        context = ray.get_runtime_context()
        summary = one_line(error) if isinstance(error, PassingFault) else described(error)
        address = ray.util.get_node_ip_address()
        shown = "".join(traceback.format_exception(error))
        where = (context.get_actor_id() or "", context.get_node_id(), address, time.time(), shown)
        return cls(unit, summary, fault_kind(error), is_passing(error), *where)

    def verdict(self, earlier: "list[Failure]", began_at: float, max_attempts: int, has_other_node: bool) -> Verdict:
        """What follows, given the failures so far that count, and when this process began.

        A fault that may pass is refused when it recurs in the same way on a second node, or, where there is no other
        one, in a second process; any other after ``max_attempts``. What failed at the same time is no recurrence.
        """
        before = [failure for failure in earlier if failure.at < began_at]
        alike = [failure for failure in before if failure.kind == self.kind]
        if self.passes and alike:
            if any(failure.node != self.node for failure in alike):
                return Verdict.GIVE_UP
            return Verdict.ELSEWHERE if has_other_node else Verdict.GIVE_UP
        own = [failure for failure in before if failure.unit or failure.actor == self.actor]
        return Verdict.GIVE_UP if len(own) + 1 >= max_attempts else Verdict.AGAIN

    def to_error(self, stage: str, earlier: "list[Failure]") -> Exception:
        """The driver's exception: one line where device or network are at fault, else with the traceback as a note."""
        what = f"{self.unit} failed" if self.unit else "no worker could start"
        if not self.passes:
            number = len(earlier) + 1
            error = RuntimeError(f"{stage}: {what}, {number} times, the last time with {self.summary}")
            error.add_note(self.traceback)
            return error
        alike = [failure for failure in [*earlier, self] if failure.kind == self.kind]
        addresses = list(dict.fromkeys(failure.address for failure in alike))
        nodes = len({failure.node for failure in alike})
        places = f"on {nodes} nodes" if nodes > 1 else f"in {len(alike)} processes of one node"
        return InputError(f"{stage}: {what} in the same way {places} ({', '.join(addresses)}): {self.summary}")


@dataclass(frozen=True)
class Attempts:
    """Attempts and failures of one ``run``, in Ray's own store, which outlives actors and nodes; a context manager.

    Bounds the retries of a unit that kills its process: Ray would restart the actor and try without end. ``needs``:
    what a node must have in all for a worker. ``left_nodes``: those that no worker is put on any more.
    """

    stage: str
    max_attempts: int
    needs: dict[str, float]
    left_nodes: tuple[str, ...] = ()
    prefix: str = field(default_factory=lambda: f"llambert-{uuid.uuid4().hex}-")

    def begin(self, unit: str) -> int:
        """Which attempt at the unit this is; ``RuntimeError`` if it has had them all."""
        key = f"{self.prefix}begun-{unit}".encode()
        num_begun = int(_internal_kv_get(key) or 0)
        if num_begun >= self.max_attempts:
            failures = self.failures(unit)
            last = f", the last time with {failures[-1].summary}" if failures else ""
            raise RuntimeError(f"{self.stage}: the process that worked on {unit} was lost {num_begun} times{last}")
        _internal_kv_put(key, str(num_begun + 1).encode(), overwrite=True)
        return num_begun + 1

    def started(self) -> None:
        """This process has made its worker: what kept its actor from it before counts no more."""
        _internal_kv_del(self._key("", ray.get_runtime_context().get_actor_id() or ""), del_by_prefix=True)

    def add(self, failure: Failure) -> None:
        """Keep a failure."""
        key = self._key(failure.unit, "" if failure.unit else failure.actor) + uuid.uuid4().hex.encode()
        _internal_kv_put(key, json.dumps(asdict(failure)).encode(), overwrite=True)

    def failures(self, unit: str = "") -> list[Failure]:
        """Those of a unit, or those of starts, the earliest first."""
        return self._stored(self._key(unit))

    def _stored(self, prefix: bytes) -> list[Failure]:
        stored = (_internal_kv_get(key) for key in _internal_kv_list(prefix))
        return sorted((Failure(**json.loads(value)) for value in stored if value), key=lambda failure: failure.at)

    def all_failures(self) -> list[Failure]:
        """Those of all units and of starts, the earliest first."""
        return self._stored(f"{self.prefix}failure-".encode())

    def has_other_node(self, node: str = "") -> bool:
        """Whether a node other than ``node`` and those that were left is large enough for a worker."""
        return any(
            each["Alive"]
            and each["NodeID"] not in (node, *self.left_nodes)
            and all(each["Resources"].get(name, 0) >= number for name, number in self.needs.items())
            for each in ray.nodes()
        )

    def node_selector(self) -> dict[str, str]:
        """Ray's label selector of the nodes that were not left."""
        return {"ray.io/node-id": f"!in({','.join(self.left_nodes)})"} if self.left_nodes else {}

    def _key(self, unit: str, actor: str = "") -> bytes:
        name = hashlib.sha256(unit.encode()).hexdigest() if unit else "start"
        return f"{self.prefix}failure-{name}-{actor}".encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        _internal_kv_del(self.prefix.encode(), del_by_prefix=True)
