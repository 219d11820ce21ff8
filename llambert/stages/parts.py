"""Part by part through a pool of Ray actors: what annotate and label (and ingest, by source file) share.

A unit of work is a bounded slice of a table with a fixed name. A worker reads it, works, and commits its
part under that name; the driver sees only small outcomes. Killing any process loses the units in flight,
which Ray gives to another actor; a new start leaves out the units whose parts are committed.
"""

import contextlib
import json
import logging
import os
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util.metrics import Counter

from llambert.errors import InputError
from llambert.placement import ReplicaGroups, node_claim
from llambert.run_directory import Part


@dataclass(frozen=True)
class Outcome:
    """What one unit came to: its committed parts and the seconds the worker's model or reader was busy.

    ``replica``: who did it, for shares by replica. ``notes``: what the user should know of how it was done.
    """

    parts: list[Part]
    busy_seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    replica: str = ""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """For the way from an actor to the driver: Arrow would pickle the object itself."""
        return json.dumps({**asdict(self), "parts": [part.model_dump() for part in self.parts]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The outcome that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})


@dataclass
class Span:
    """From when to when one replica worked, how long its model was busy in between, and what it did.

    Of outcomes whose ``measures`` say ``started_at`` and ``ended_at``.
    """

    started_at: float = float("inf")
    ended_at: float = 0.0
    busy_seconds: float = 0.0
    num_rows: int = 0
    _first: tuple[float, int] | None = None

    def add(self, outcome: Outcome) -> None:
        """One more unit that the replica did."""
        num_rows, ended_at = sum(part.num_rows for part in outcome.parts), outcome.measures["ended_at"]
        self._first = min((ended_at, num_rows), self._first or (ended_at, num_rows))
        self.started_at = min(self.started_at, outcome.measures["started_at"])
        self.ended_at = max(self.ended_at, ended_at)
        self.busy_seconds += outcome.busy_seconds
        self.num_rows += num_rows

    @property
    def seconds(self) -> float:
        """Positive, however short."""
        return max(self.ended_at - self.started_at, 1e-9)

    @property
    def busy_share(self) -> float:
        """Of the replica's time, the share that its model worked."""
        return self.busy_seconds / self.seconds

    @property
    def rows_per_second(self) -> float:
        """The steady rate: without the first unit, where everything is done for the first time, unless it is alone."""
        first_ended_at, num_first = self._first or (0.0, 0)
        if self.ended_at > first_ended_at:
            return (self.num_rows - num_first) / (self.ended_at - first_ended_at)
        return self.num_rows / self.seconds


class Worker(Protocol):
    """Made once per actor (loading its model), then called with one unit at a time."""

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Do one unit and commit its parts."""
        ...


@dataclass(frozen=True)
class Pool:
    """How many actors, and what each holds; whole GPUs on one node, in a placement group of the actor's own."""

    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_attempts: int = 3
    node_resource: str | None = None


def connect() -> None:
    """Join the Ray cluster that ``RAY_ADDRESS`` or the job names, or start a local one.

    A local one talks to nobody and keeps its own messages in its session folder (``/tmp/ray``): a worker's
    failure reaches the user as an exception, its log lines would only bury the progress.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def run_units(
    name: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
) -> Iterator[Outcome]:
    """Outcomes of ``worker(*arguments)(unit)`` for every unit, as they come, each unit at least once.

    ``name`` is shown in the Ray dashboard. A worker's ``InputError`` comes out as itself and stops the
    stage; any other failure of a unit is tried ``pool.max_attempts`` times before it does.
    """
    if not units:
        return
    connect()
    context = DataContext.get_current()
    context.enable_progress_bars = False  # the stages draw their own, in records
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"unit": json.dumps(unit)} for unit in units]
    attempts = _Attempts(f"llambert-{uuid.uuid4().hex}-", pool.max_attempts)
    max_actors = min(pool.max_actors, len(units))
    groups = (
        ReplicaGroups(name, pool.num_gpus, pool.num_cpus, max_actors, pool.node_resource)
        if pool.num_gpus >= 1
        else None
    )
    claim = {} if groups else node_claim(pool.node_resource)
    with warnings.catch_warnings():
        # Ray 2.60 has no named parameters yet for these.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _UnitActor,
            fn_constructor_args=(name, worker, arguments, attempts),
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=min(pool.min_actors, len(units)),
                max_size=max_actors,
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            ray_remote_args_fn=groups.actor_options if groups else None,
            resources=claim,
            max_restarts=-1,
            # Ray would count every call to an actor whose node is lost, a few a second: _Attempts counts instead.
            max_task_retries=-1,
        )
    dataset.set_name(name)
    with attempts, groups or contextlib.nullcontext():
        for row in dataset.iter_rows():
            if row["refusal"]:
                raise InputError(row["refusal"])
            if groups:
                groups.release_unused()
            yield Outcome.from_json(row["outcome"])


@dataclass(frozen=True)
class _Attempts:
    """How often each unit was begun, in Ray's own store, which outlives actors and nodes and costs no process.

    Bounds the retries of a unit that kills its process: Ray would restart the actor and try without end.
    """

    prefix: str
    max_attempts: int

    def begin(self, unit: str) -> int:
        """Which attempt at the unit this is; ``RuntimeError`` if it has had them all."""
        key = (self.prefix + unit).encode()
        num_begun = int(_internal_kv_get(key) or 0)
        if num_begun >= self.max_attempts:
            raise RuntimeError(f"the process that worked on {unit} was lost {num_begun} times")
        _internal_kv_put(key, str(num_begun + 1).encode(), overwrite=True)
        return num_begun + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _internal_kv_del(self.prefix.encode(), del_by_prefix=True)


class _UnitActor:
    """A worker in its actor. What the user must mend travels back as a value, so that it stays one line."""

    def __init__(self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], attempts: _Attempts) -> None:
        self._refusal, self._stage = "", stage
        self._retries = Counter("llambert_retries", "units of work begun again after a process was lost", ("stage",))
        self._attempts = attempts
        try:
            self._worker = worker(*arguments)
        except InputError as error:
            self._refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes, refusals = [], []
        for unit in batch["unit"]:
            if self._attempts.begin(unit) > 1:
                self._retries.inc(1, {"stage": self._stage})
            outcome, refusal = self._do(json.loads(unit))
            outcomes.append(outcome)
            refusals.append(refusal)
        return {"outcome": outcomes, "refusal": refusals}

    def _do(self, unit: dict[str, Any]) -> tuple[str, str]:
        if self._refusal:
            return "", self._refusal
        try:
            return self._worker(unit).to_json(), ""
        except InputError as error:
            return "", str(error)
