"""Units of work through a pool of Ray actors: Ray Data's ``map_batches``, on this machine or on a cluster."""

import contextlib
import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util.metrics import Counter

from llambert.errors import InputError
from llambert.execution import OnProgress, Outcome, Pool, Result, TrainingContext, Worker
from llambert.execution.placement import ReplicaGroups, node_resources
from llambert.run import Run


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


class RayExecutor:
    """Joins the Ray cluster that the job names, or starts a local one, when there is something to do."""

    def run(
        self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
    ) -> Iterator[Outcome]:
        """See ``Executor.run``; ``stage`` is shown in the Ray dashboard.

        A failure of a unit other than an ``InputError`` is tried ``pool.max_attempts`` times before it stops the stage.
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
            ReplicaGroups(stage, pool.num_gpus, pool.num_cpus, max_actors, pool.node_resource)
            if pool.num_gpus >= 1
            else None
        )
        claim = {} if groups else node_resources(pool.node_resource)
        with warnings.catch_warnings():
            # Ray 2.60 has no named parameters yet for these.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _UnitActor,
                fn_constructor_args=(stage, worker, arguments, attempts),
                batch_size=1,
                compute=ActorPoolStrategy(
                    min_size=min(pool.min_actors, len(units)),
                    max_size=max_actors,
                    max_tasks_in_flight_per_actor=pool.units_in_flight + 1,
                    max_concurrent_calls_per_actor=pool.units_in_flight,
                    enable_true_multi_threading=pool.units_in_flight > 1,
                ),
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
                ray_remote_args_fn=groups.actor_options if groups else None,
                resources=claim,
                max_restarts=-1,
                # Ray would count every call to an actor whose node is lost, a few a second: _Attempts counts instead.
                max_task_retries=-1,
            )
        dataset.set_name(stage)
        with attempts, groups or contextlib.nullcontext():
            for row in dataset.iter_rows():
                if row["input_error"]:
                    raise InputError(row["input_error"])
                if groups:
                    groups.release_unused()
                yield Outcome.from_json(row["outcome"])

    def train(self, run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
        """See ``ray_training.train``."""
        from llambert.execution import ray_training  # with PyTorch, which many actors that import this module never use

        connect()
        return ray_training.train(run, function, on_progress)


RAY = RayExecutor()


@dataclass(frozen=True)
class _Attempts:
    """The number of attempts at each unit, in Ray's own store, which outlives actors and nodes.

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
    """A worker in its actor. An ``InputError`` is returned as a value, so that it stays one line."""

    def __init__(self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], attempts: _Attempts) -> None:
        self._input_error, self._stage = "", stage
        self._retries = Counter("llambert_retries", "units of work begun again after a process was lost", ("stage",))
        self._attempts = attempts
        try:
            self._worker = worker(*arguments)
        except InputError as error:
            self._input_error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes, input_errors = [], []
        for unit in batch["unit"]:
            if self._attempts.begin(unit) > 1:
                self._retries.inc(1, {"stage": self._stage})
            outcome, input_error = self._run_unit(json.loads(unit))
            outcomes.append(outcome)
            input_errors.append(input_error)
        return {"outcome": outcomes, "input_error": input_errors}

    def _run_unit(self, unit: dict[str, Any]) -> tuple[str, str]:
        if self._input_error:
            return "", self._input_error
        try:
            return self._worker(unit).to_json(), ""
        except InputError as error:
            return "", str(error)
