"""Part by part through a pool of Ray actors: what annotate and label (and ingest, by source file) share.

A unit of work is a bounded slice of a table with a fixed name. A worker reads it, works, and commits its
part under that name; the driver sees only small outcomes. Killing any process loses the units in flight,
which Ray gives to another actor; a new start leaves out the units whose parts are committed.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from llambert.errors import InputError
from llambert.run_directory import Part


@dataclass(frozen=True)
class Outcome:
    """What one unit came to: its committed parts and the seconds the worker's model or reader was busy."""

    parts: list[Part]
    busy_seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the way from an actor to the driver: Arrow would pickle the object itself."""
        return json.dumps({**asdict(self), "parts": [part.model_dump() for part in self.parts]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The outcome that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})


class Worker(Protocol):
    """Made once per actor (loading its model), then called with one unit at a time."""

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Do one unit and commit its parts."""
        ...


@dataclass(frozen=True)
class Pool:
    """How many actors, and what each holds."""

    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_attempts: int = 3


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
    with warnings.catch_warnings():
        # Ray 2.60 has no named parameter yet for what bounds the retries of a unit that kills its process.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _UnitActor,
            fn_constructor_args=(worker, arguments),
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=min(pool.min_actors, len(units)),
                max_size=min(pool.max_actors, len(units)),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            max_restarts=-1,
            max_task_retries=pool.max_attempts,
        )
    dataset.set_name(name)
    for row in dataset.iter_rows():
        if row["refusal"]:
            raise InputError(row["refusal"])
        yield Outcome.from_json(row["outcome"])


class _UnitActor:
    """A worker in its actor. What the user must mend travels back as a value, so that it stays one line."""

    def __init__(self, worker: type[Worker], arguments: tuple[Any, ...]) -> None:
        self._refusal = ""
        try:
            self._worker = worker(*arguments)
        except InputError as error:
            self._refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes, refusals = [], []
        for unit in batch["unit"]:
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
