"""Execution of stages: an ``Executor`` runs a worker on units of work, here or on a cluster.

Fine-tuning runs a function instead, with a ``TrainingContext``.

A unit of work is a bounded slice of a table with a fixed name. A worker reads it, works, and commits its part under
that name; the caller sees only small outcomes. Losing a process loses the units in flight, which are done again; a
new start leaves out the units whose parts are committed.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from llambert.run import Run
from llambert.storage.manifest import Part

if TYPE_CHECKING:  # workers of stages that use no model import this module
    import torch

    from llambert.classifier.chip import HalfPrecision

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """The result of one unit: its committed parts and the seconds the worker's model or reader was busy.

    ``replica``: the actor that did it. ``notes``: what the user should know about how it was done. ``failures``: what
    of the unit could not be done now and may be later -> its error and the kind of it.
    """

    parts: list[Part]
    busy_seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    replica: str = ""
    notes: list[str] = field(default_factory=list)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)

    def to_json(self) -> str:
        """To be sent from an actor to the driver as text: Arrow would pickle the object."""
        return json.dumps({**asdict(self), "parts": [part.model_dump() for part in self.parts]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The outcome that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})


class Worker(Protocol):
    """Made once per replica (loading its model), then called with one unit after another.

    Where the pool has several units in flight, threads call one worker at once.
    """

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Do one unit and commit its parts."""
        ...


@dataclass(frozen=True)
class Pool:
    """How many replicas of a worker there are, what each holds, and how many units each is given at once.

    Whole GPUs are on one node, in a placement group of the replica's own. ``max_attempts``: how often a unit is begun
    before it is given up, because it failed or its process was lost each time.
    """

    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_attempts: int = 3
    node_resource: str | None = None
    units_in_flight: int = 1


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is: steps done and in all, busy seconds of all workers since they started.

    ``line``: to be printed. ``figures``: the latest loss, learning rate, held-out metrics, for dashboards.
    """

    num_done: int
    num_steps: int
    busy_seconds: float
    line: str = ""
    figures: dict[str, float] = field(default_factory=dict)


OnProgress = Callable[[TrainingProgress], None]


class TrainingContext(Protocol):
    """What a training function needs of the place where it runs, as one of one or more workers.

    Where there are several, they are a ``torch.distributed`` group, and every one calls ``first_error`` and
    ``latest_state`` at the same places. Only rank 0 stores anything; the others need not know when.
    """

    rank: int
    device: "torch.device"

    def first_error(self, message: str) -> str:
        """The first non-empty ``message`` of any worker, so that no worker waits for one that failed."""
        ...

    def latest_state(self) -> dict[str, Any] | None:
        """The state stored last, by an earlier start, the same one on every worker; None if there is none."""
        ...

    def save_state(self, state: Callable[[], dict[str, Any]]) -> bool:
        """Offer ``state()`` to be stored while training goes on, so that a training that is killed resumes from it.

        True if it is being stored: every ``classifier.checkpoint_every_s``, one after another, by rank 0. Raises what
        storing the one before raised.
        """
        ...

    def save_file(self, name: str, content: bytes) -> None:
        """Store a file beside the states while training goes on; does nothing on other ranks than 0."""
        ...

    def report(self, progress: TrainingProgress) -> None:
        """Report to the driver; it receives the reports of rank 0 alone."""
        ...


class Executor(Protocol):
    """Runs units of work and trains a classifier, on a cluster or in this process."""

    @property
    def spans_machines(self) -> bool:
        """Whether workers may be on other machines than the caller."""
        ...

    def run(
        self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
    ) -> Iterator[Outcome]:
        """Outcomes of ``worker(*arguments)(unit)`` for every unit, as they come, each unit at least once.

        No worker is made where there are no units. A worker's ``InputError`` comes out as itself and stops the stage.
        Any other failure, in a unit or while a worker is made, costs an attempt: another worker, in another process
        where there are processes, does the unit, ``pool.max_attempts`` times; then ``RuntimeError`` says the unit and
        its last failure. A fault of a device or of the network (``is_passing``) moves the unit to another node; where
        it recurs in the same way there, or in a second process of the only node, ``InputError`` says it in one line.
        """
        ...

    def half_precision(self, node_resource: str | None = None) -> "HalfPrecision | None":
        """What the GPUs that are up, on nodes with that resource, compute fastest in; None where there is none."""
        ...

    def train(self, run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
        """What ``function`` returned on rank 0, with the workers and resources of the recipe's classifier.

        States lie in the run's ``training`` table, so that the next start resumes. An ``InputError`` of ``function``,
        which all workers raise at the same place, comes out as itself.
        """
        ...
