"""A training on Ray Train: its workers, their states, and which of their failures are tried again."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llambert.errors import InputError
from llambert.execution import OnProgress, Result, TrainingContext, TrainingProgress
from llambert.execution.live_gauges import LiveGauges
from llambert.execution.placement import node_resources
from llambert.execution.training_faults import Faults
from llambert.execution.training_states import TrainingStates, agreed_state
from llambert.passing_faults import PassingFault
from llambert.recipe import ClassifierRecipe
from llambert.run import Run


def train(run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
    """See ``Executor.train``; Ray must be connected.

    A killed worker resumes from the last state, at most ``classifier.max_failures`` times. ``RuntimeError``: the
    workers failed too often, or of a fault that would recur.
    """
    _require_resources(run.recipe.classifier)
    with _progress_queue(on_progress) as queue, Faults(_needs(run.recipe.classifier)) as faults:
        outcome = _fit(run, {"run": run, "function": function, "queue": queue, "faults": faults})
    if "input_error" in outcome:
        raise outcome["input_error"]
    if "fault" in outcome:
        raise outcome["fault"].to_error("finetune")
    return outcome["result"]


def _require_resources(recipe: ClassifierRecipe) -> None:
    """``InputError`` if a local Ray has too few resources; a cluster may still grow."""
    if os.environ.get("RAY_ADDRESS"):
        return
    there = ray.cluster_resources()
    wanted = {"CPU": recipe.cpus_per_worker * recipe.num_workers, "GPU": recipe.num_workers if recipe.use_gpu else 0}
    for kind, num in wanted.items():
        if num > there.get(kind, 0):
            raise InputError(
                f"classifier: {recipe.num_workers} workers need {num:g} {kind}s, Ray on this machine has "
                f"{there.get(kind, 0):g}; lower classifier.num_workers or classifier.cpus_per_worker"
            )


def _needs(recipe: ClassifierRecipe) -> dict[str, float]:
    """The resources of one worker."""
    gpu = {"GPU": 1.0} if recipe.use_gpu else {}
    return {"CPU": recipe.cpus_per_worker, **gpu, **node_resources(recipe.node_resource)}


def _fit(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Run Ray Train to its end; what rank 0 returned."""
    recipe = run.recipe.classifier
    # Workers must find the run's storage by the recipe's own, perhaps relative, path.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # The end of the workers is seen at the next look at them: every two seconds by default, as long as ten steps.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    try:
        with tempfile.TemporaryDirectory() as unused:  # nothing is reported to Ray Train: TrainingStates stores states
            trainer = _Trainer(
                _training_loop,  # type: ignore[arg-type]
                train_loop_config=config,
                scaling_config=ScalingConfig(
                    num_workers=recipe.num_workers, use_gpu=recipe.use_gpu, resources_per_worker=_needs(recipe)
                ),
                run_config=RunConfig(  # type: ignore[call-arg]  # ray.train's type hints are of its first version
                    name=run.fingerprints["checkpoint"],
                    storage_path=unused,
                    failure_config=FailureConfig(max_failures=recipe.max_failures),
                    logging_config=ray.train.LoggingConfig(log_level="ERROR"),
                ),
            )
            return trainer.fit().return_value  # type: ignore[attr-defined]
    except ray.train.TrainingFailedError as error:
        if fault := config["faults"].found():
            raise fault.to_error("finetune") from error
        last = str(error).strip().rpartition("\n")[2]
        raise RuntimeError(
            f"finetune: its workers failed more than {recipe.max_failures} times (classifier.max_failures), last "
            f"with: {last}; training checkpoints are kept, start the same command again to resume"
        ) from error


class _Trainer(TorchTrainer):
    """Without Ray Train's handler of SIGINT, which ends the program with exit status 0 and stays after training."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


@contextlib.contextmanager
def _progress_queue(on_progress: OnProgress) -> Iterator[Queue]:
    """A queue whose entries are passed to ``on_progress`` by a thread; None ends the thread.

    Its actor is on the driver's node, so that training continues when another node is lost.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def pass_on() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # Ray is gone, and with it whoever reports
            while (progress := queue.get()) is not None:
                on_progress(progress)

    thread = threading.Thread(target=pass_on, name="training-progress", daemon=True)
    thread.start()
    try:
        yield queue
    except Exception:
        _close(queue, thread)
        raise
    _close(queue, thread)  # not where the program is stopped: Ray may be gone already


def _close(queue: Queue, thread: threading.Thread) -> None:
    queue.put(None)
    thread.join()
    queue.shutdown(force=True)


# In the workers


def _training_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's function. Returns input errors and recurring faults: on an exception Ray restarts the workers."""
    faults, began_at = config["faults"], time.time()
    if fault := faults.found():
        return {"fault": fault}
    run: Run = config["run"]
    states = TrainingStates(run.table("training"), run.recipe.classifier.checkpoint_every_s)
    context = _RayTraining(run.recipe.name, config["queue"], states)
    try:
        with states:
            return {"result": config["function"](run, context)}
    except Exception as error:
        if isinstance(error, InputError) and not isinstance(error, PassingFault):
            return {"input_error": error}
        fault = faults.add(error, context.rank, context.num_done, began_at)
        if fault and ray.train.get_context().get_world_size() == 1:
            return {"fault": fault}
        raise  # the others may be waiting for this worker: Ray ends them, and all find the fault when they start anew


class _RayTraining:
    """A ``TrainingContext`` that reports to Ray's metrics too."""

    def __init__(self, run: str, queue: Queue, states: TrainingStates) -> None:
        self.rank = ray.train.get_context().get_world_rank()
        self.device = ray.train.torch.get_device()
        self.num_done = -1
        self._queue, self._states = queue, states
        self._gauges = LiveGauges({"run": run})

    def first_error(self, message: str) -> str:
        return next(filter(None, _gathered(message)), "")

    def latest_state(self) -> dict[str, Any] | None:
        return agreed_state(self._states.latest, _gathered)

    def save_state(self, state: Callable[[], dict[str, Any]]) -> bool:
        with _refusal_of_one_worker():
            return self.rank == 0 and self._states.save(state)

    def save_file(self, name: str, content: bytes) -> None:
        if self.rank == 0:
            with _refusal_of_one_worker():
                self._states.save_file(name, content)

    def report(self, progress: TrainingProgress) -> None:
        self.num_done = progress.num_done
        if self.rank > 0:
            return
        self._queue.put(progress)
        for name, value in progress.figures.items():
            self._gauges.set(f"llambert_finetune_{name}", f"Fine-tuning: {name}", value)


def _gathered(value: Any) -> list[Any]:
    """The value of every worker, in the order of their ranks."""
    values = [value] * (dist.get_world_size() if dist.is_initialized() else 1)
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def _refusal_of_one_worker() -> Iterator[None]:
    """``OSError`` for storage that refuses rank 0 what it stores, if there are other workers: they know nothing of it.

    They would wait in the next step for one that has ended; now Ray starts all anew.
    """
    try:
        yield
    except InputError as error:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise OSError(str(error)) from error
        raise
