"""Units of work through a pool of Ray actors: Ray Data's ``map_batches``, on this machine or on a cluster."""

import contextlib
import functools
import json
import logging
import os
import pickle
import secrets
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
import ray.data
from ray._private import services
from ray._private.utils import detect_fate_sharing_support_linux
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # written in Cython
from ray.data import ActorPoolStrategy, DataContext
from ray.util.metrics import Counter

from llambert import stopping
from llambert.errors import InputError
from llambert.execution import OnProgress, Outcome, Pool, Result, TrainingContext, Worker
from llambert.execution.failures import Attempts, Failure, Verdict
from llambert.execution.placement import ReplicaGroups, half_precision_of, node_resources
from llambert.passing_faults import PassingFault
from llambert.run import Run

if TYPE_CHECKING:  # with PyTorch, which many actors that import this module never use
    from llambert.classifier.chip import HalfPrecision


def connect() -> None:
    """Join the Ray cluster that ``RAY_ADDRESS`` or the job names, or start a local one.

    A local one talks to nobody and keeps its own messages in its session folder (``/tmp/ray``): a worker's
    failure reaches the user as an exception, its log lines would only bury the progress. Ray listens on every
    interface of the machine, so each local cluster asks for a token of its own, which is in the environment of its
    processes alone (Ray would write one that other users can read); ``RAY_AUTH_MODE=disabled`` turns this off.

    Its processes are a group apart: a signal to the program's group (Ctrl-C, ``timeout``) would stop them too, and
    Ray's C++ ends this process with status 1 as soon as it misses its object store.
    """
    if ray.is_initialized():
        return
    stopping.at_end.append(ray.shutdown)
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
        stopping.retake()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    AuthenticationTokenLoader.instance().reset_cache()  # of an earlier cluster of this process
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _without_lines_of("RAY_BACKEND_LOG_LEVEL"), _processes_in_a_group_of_their_own():
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    stopping.retake()


@contextlib.contextmanager
def _without_lines_of(variable: str) -> Iterator[None]:
    """While entered, hold back what this process writes to stderr; then write it, but for what only says that
    ``variable`` was read, as Ray's C++ does."""
    with tempfile.TemporaryFile() as held, open(os.dup(2), "wb") as stderr:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            if not stopping.stopped_by():
                os.dup2(stderr.fileno(), 2)
                held.seek(0)
                stderr.writelines(line for line in held if variable.encode() not in line)


@contextlib.contextmanager
def _processes_in_a_group_of_their_own() -> Iterator[None]:
    """While entered, each process that Ray starts leads a process group; Ray has no setting for it.

    Only where the kernel ends them with this process: elsewhere Ray does, by this process's group.
    """
    popen = services.ConsolePopen
    if detect_fate_sharing_support_linux():
        services.ConsolePopen = functools.partial(popen, process_group=0)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


class RayExecutor:
    """Joins the Ray cluster that the job names, or starts a local one, when there is something to do."""

    @property
    def spans_machines(self) -> bool:
        """Whether this is not a local Ray: a cluster of one node may grow."""
        return bool(os.environ.get("RAY_ADDRESS")) or (ray.is_initialized() and len(ray.nodes()) > 1)

    def run(
        self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
    ) -> Iterator[Outcome]:
        """See ``Executor.run``; ``stage`` is shown in the Ray dashboard.

        A worker that raises ends its process, so that no later unit meets its memory or GPU. Where a node fails twice
        in the same way, what is left of its units goes to other nodes at the end.
        """
        if not units:
            return
        connect()
        context = DataContext.get_current()
        context.enable_progress_bars = False  # the stages draw their own, in records
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        items = [json.dumps(unit) for unit in units]
        needs = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **node_resources(pool.node_resource)}
        with Attempts(stage, pool.max_attempts, needs) as attempts:
            while items:
                moved: list[str] = []
                for row in _one_pass(worker, arguments, items, pool, attempts):
                    if row["error"]:
                        raise pickle.loads(row["error"])
                    if row["left_node"]:
                        moved.append(row["unit"])
                        attempts = _leave(attempts, row["left_node"])
                    else:
                        yield Outcome.from_json(row["outcome"])
                items = moved

    def half_precision(self, node_resource: str | None = None) -> "HalfPrecision | None":
        """See ``Executor.half_precision``: of the cluster's nodes, or of this machine, where no cluster is started."""
        if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
            from llambert.classifier.chip import half_precision_here

            return half_precision_here()
        connect()
        return half_precision_of([node["Resources"] for node in ray.nodes() if node["Alive"]], node_resource)

    def train(self, run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
        """See ``ray_training.train``."""
        from llambert.execution import ray_training  # with PyTorch, which many actors that import this module never use

        connect()
        return ray_training.train(run, function, on_progress)


RAY = RayExecutor()


def _one_pass(
    worker: type[Worker], arguments: tuple[Any, ...], items: list[str], pool: Pool, attempts: Attempts
) -> Iterator[dict[str, Any]]:
    """What ``_UnitActor`` returns of each unit."""
    max_actors, stage = min(pool.max_actors, len(items)), attempts.stage
    selector = attempts.node_selector()
    groups = (
        ReplicaGroups(stage, pool.num_gpus, pool.num_cpus, max_actors, pool.node_resource, selector)
        if pool.num_gpus >= 1
        else None
    )
    placement: dict[str, Any] = {} if groups else {"resources": node_resources(pool.node_resource)}
    if selector and not groups:
        placement["label_selector"] = selector
    with warnings.catch_warnings():
        # Ray 2.60 has no named parameters yet for these.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = ray.data.from_items([{"unit": item} for item in items], override_num_blocks=len(items)).map_batches(
            _UnitActor,
            fn_constructor_args=(worker, arguments, attempts),
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=min(pool.min_actors, len(items)),
                max_size=max_actors,
                max_tasks_in_flight_per_actor=pool.units_in_flight + 1,
                max_concurrent_calls_per_actor=pool.units_in_flight,
                enable_true_multi_threading=pool.units_in_flight > 1,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            ray_remote_args_fn=groups.actor_options if groups else None,
            max_restarts=-1,
            # Ray would count every call to an actor whose node is lost, a few a second: Attempts counts instead.
            max_task_retries=-1,
            **placement,
        )
    dataset.set_name(stage)
    with groups or contextlib.nullcontext():
        for row in dataset.iter_rows():
            yield row
            if groups:
                groups.release_unused()


def _leave(attempts: Attempts, node: str) -> Attempts:
    """Without another node that failed; the stage ends where none remains."""
    if node in attempts.left_nodes:
        return attempts
    failures = [failure for failure in attempts.all_failures() if failure.node == node]
    left = replace(attempts, left_nodes=(*attempts.left_nodes, node))
    if not left.has_other_node():
        raise failures[-1].to_error(attempts.stage, failures[:-1])
    where, why = failures[-1].address, failures[-1].summary
    print(f"{attempts.stage}: node {where} failed twice and is left: {why}", file=sys.stderr, flush=True)
    return left


class _UnitActor:
    """A worker in its actor. What the driver raises is returned as a value, so that it stays one line.

    Where the worker fails otherwise, the failure is kept and the process ends: Ray starts another one and hands it the
    same units. On a node that is left, units are returned undone, ever more slowly: others may take them meanwhile.
    """

    def __init__(self, worker: type[Worker], arguments: tuple[Any, ...], attempts: Attempts) -> None:
        self._attempts, self._began_at = attempts, time.time()
        self._retries = Counter("llambert_retries", "units of work begun again after a failure", ("stage",))
        self._error, self._leaves, self._pause_s = b"", False, _FIRST_PAUSE_S
        self._in_flight, self._changed = 0, threading.Condition()
        self._num_ending = 0
        try:
            self._worker = worker(*arguments)
            attempts.started()
        except Exception as error:
            self._error = self._judge(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = [self._row(str(unit)) for unit in batch["unit"]]
        return {name: [row.get(name, empty) for row in rows] for name, empty in _EMPTY_ROW.items()}

    def _row(self, unit: str) -> dict[str, Any]:
        if self._error:
            return {"error": self._error}
        if self._leaves:
            time.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
            return {"unit": unit, "left_node": ray.get_runtime_context().get_node_id()}
        with self._changed:
            self._changed.wait_for(lambda: not self._num_ending)  # until the process ends: its successor does the unit
            self._in_flight += 1
        try:
            try:
                if self._attempts.begin(unit) > 1:
                    self._retries.inc(1, {"stage": self._attempts.stage})
            except RuntimeError as error:
                return {"error": pickle.dumps(error)}
            try:
                return {"outcome": self._worker(json.loads(unit)).to_json()}
            except Exception as error:
                if final := self._judge(error, unit):
                    return {"error": final}
                return {"unit": unit, "left_node": ray.get_runtime_context().get_node_id()}
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _judge(self, error: Exception, unit: str = "") -> bytes:
        """The driver's exception, pickled; empty where the node is left. Ends the process where it may try again."""
        if isinstance(error, InputError) and not isinstance(error, PassingFault):
            return pickle.dumps(error)
        failure = Failure.of(error, unit)
        earlier = self._attempts.failures(unit)
        self._attempts.add(failure)
        has_other_node = self._attempts.has_other_node(failure.node)
        verdict = failure.verdict(earlier, self._began_at, self._attempts.max_attempts, has_other_node)
        if verdict is Verdict.GIVE_UP:
            return pickle.dumps(failure.to_error(self._attempts.stage, earlier))
        if verdict is Verdict.ELSEWHERE:
            self._leaves = True
            return b""
        with self._changed:
            self._num_ending += 1
            self._changed.notify_all()
            # Units that other threads of this process are at are finished first: they may be paid for.
            self._changed.wait_for(lambda: self._in_flight <= self._num_ending)
        os._exit(1)


_EMPTY_ROW: dict[str, Any] = {"unit": "", "outcome": "", "error": b"", "left_node": ""}
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 300.0
