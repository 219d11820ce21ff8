"""A training on Ray Train: its workers, their states, and which of their failures are tried again."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.metrics import Gauge
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llambert.errors import InputError
from llambert.execution import OnProgress, Result, TrainingContext, TrainingProgress
from llambert.execution.placement import node_resources
from llambert.execution.training_faults import Faults
from llambert.recipe import ClassifierRecipe
from llambert.run import Run
from llambert.storage.locations import is_local, move_file, remove_folder
from llambert.storage.run_directory import TableDirectory

_STATE = "state.pt"


def train(run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
    """See ``Executor.train``; Ray must be connected.

    A killed worker resumes from the last state, at most ``classifier.max_failures`` times. ``RuntimeError``: the
    workers failed too often, or of a fault that would recur.
    """
    _require_resources(run.recipe.classifier)
    with _progress_queue(on_progress) as queue, Faults() as faults:
        outcome = _fit(run, {"run": run, "function": function, "queue": queue, "faults": faults})
    if "input_error" in outcome:
        raise InputError(outcome["input_error"])
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


def _fit(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Run Ray Train to its end; what rank 0 returned."""
    recipe = run.recipe.classifier
    # Workers must find the run's storage by the recipe's own, perhaps relative, path.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # A worker's next report waits until the last was fetched: two seconds by default, as long as ten steps.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    filesystem, path = _ray_storage(run.table("training"))
    resources = {
        "CPU": recipe.cpus_per_worker,
        **({"GPU": 1} if recipe.use_gpu else {}),
        **node_resources(recipe.node_resource),
    }
    trainer = TorchTrainer(
        _training_loop,  # type: ignore[arg-type]
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=recipe.num_workers, use_gpu=recipe.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # ray.train's type hints are those of its first version
            name=run.fingerprints["checkpoint"],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=recipe.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        return trainer.fit().return_value  # type: ignore[attr-defined]
    except ray.train.TrainingFailedError as error:
        if fault := config["faults"].found():
            raise fault.to_error("finetune") from error
        last = str(error).strip().rpartition("\n")[2]
        raise RuntimeError(
            f"finetune: its workers failed more than {recipe.max_failures} times (classifier.max_failures), last "
            f"with: {last}; training checkpoints are kept, run the job again to resume"
        ) from error


def _ray_storage(training: TableDirectory) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """The run's own filesystem as Ray Train takes it, and the path on it."""
    if is_local(training.filesystem):
        return pyarrow.fs.LocalFileSystem(), training.path()
    return pyarrow.fs.PyFileSystem(_LiteralPathHandler(training.filesystem)), training.path()


class _LiteralPathHandler(pyarrow.fs.FSSpecHandler):
    """A filesystem for Arrow that removes and moves what is named; fsspec would take ``*?[`` in it for a pattern."""

    def delete_dir(self, path: str) -> None:
        """Remove a folder."""
        remove_folder(self.fs, path)

    def delete_file(self, path: str) -> None:
        """Remove a file."""
        self.fs.rm_file(path)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file."""
        self.fs.cp_file(src, dest)

    def move(self, src: str, dest: str) -> None:
        """Move a file."""
        move_file(self.fs, src, dest)


@contextlib.contextmanager
def _progress_queue(on_progress: OnProgress) -> Iterator[Queue]:
    """A queue whose entries are passed to ``on_progress`` by a thread; None ends the thread.

    Its actor is on the driver's node, so that training continues when another node is lost.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def pass_on() -> None:
        while (progress := queue.get()) is not None:
            on_progress(progress)

    thread = threading.Thread(target=pass_on, name="training-progress", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown(force=True)


# In the workers


def _training_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's function. Returns input errors and recurring faults: on an exception Ray restarts the workers."""
    faults: Faults = config["faults"]
    if fault := faults.found():
        return {"fault": fault}
    context = _RayTraining(config["run"].recipe.name, config["queue"])
    try:
        return {"result": config["function"](config["run"], context)}
    except InputError as error:
        return {"input_error": str(error)}
    except Exception as error:
        fault = faults.add(error, context.rank, context.num_done)
        if fault and ray.train.get_context().get_world_size() == 1:
            return {"fault": fault}
        raise  # the others may be waiting for this worker: Ray ends them, and all find the fault when they start anew


class _RayTraining:
    """A ``TrainingContext`` that reports to Ray's metrics too."""

    def __init__(self, run: str, queue: Queue) -> None:
        self.rank = ray.train.get_context().get_world_rank()
        self.device = ray.train.torch.get_device()
        self.num_done = -1
        self._run, self._queue = run, queue
        self._figures: dict[str, float] = {}
        self._gauges: dict[str, Gauge] = {}

    def first_error(self, message: str) -> str:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return message
        messages: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(messages, message)
        return next(filter(None, messages), "")

    def latest_state(self) -> dict[str, Any] | None:
        if not (checkpoint := ray.train.get_checkpoint()):
            return None
        with checkpoint.as_directory() as folder:
            return torch.load(Path(folder, _STATE), map_location="cpu", weights_only=True)

    def save_state(self, state: Callable[[], dict[str, Any]]) -> None:
        metrics = {"num_steps": self.num_done, **self._figures}
        if self.rank > 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state(), Path(folder, _STATE))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def report(self, progress: TrainingProgress) -> None:
        self.num_done = progress.num_done
        self._figures |= progress.figures
        if self.rank > 0:
            return
        self._queue.put(progress)
        for name, value in progress.figures.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"llambert_finetune_{name}", f"Fine-tuning: {name}", tag_keys=("run",))
                self._gauges[name].set_default_tags({"run": self._run})
            self._gauges[name].set(value)
