"""Fine-tune: ``silver`` (and gold, if the regime says so) -> ``checkpoint``, a Hugging Face model folder.

Data-parallel with Ray Train. Every worker reads the whole training set, which a person chose the size of,
tokenizes it once, and takes its share of each global batch: no row is dropped, none is seen twice, and no
worker waits for another's last batch.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow.fs
import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llambert.errors import InputError, last_line
from llambert.execution.placement import node_claim
from llambert.execution.progress import Progress
from llambert.execution.ray_executor import connect
from llambert.execution.stage_progress import ProgressFile
from llambert.recipe import ClassifierRecipe
from llambert.run import Run
from llambert.stages.finetune.recurring_faults import Faults
from llambert.stages.finetune.selection import (
    NUM_SILVER,
    counts,
    drop_outdated_training,
    num_left_out,
    select,
    untrained_note,
)
from llambert.stages.finetune.worker import Told, train
from llambert.storage.locations import is_local, move_file, remove_folder
from llambert.storage.run_directory import Manifest, TableDirectory
from llambert.training.encoder_trial import require_encoder
from llambert.training.training_set import Selected


def finetune(run: Run) -> Manifest:
    """Train the classifier of the recipe; skipped when its checkpoint is complete.

    A killed worker resumes from the last training checkpoint, at most ``classifier.max_failures`` times; a
    killed driver does when it is started again. ``InputError``: labels that cannot be learned from, an encoder
    that cannot be used, a loss that is no longer finite. ``RuntimeError``: the workers failed too often, or of a
    fault that would recur.
    """
    checkpoint = run.table("checkpoint")
    if manifest := checkpoint.read_manifest():
        if note := untrained_note(run, manifest):
            print(note, flush=True)
        return manifest
    work = _Work(checkpoint, run.recipe.classifier)
    try:
        require_encoder(run)
        selected = select(run)
        drop_outdated_training(run)
        connect()
        _require_resources(run.recipe.classifier)
        with _progress(work) as queue, Faults() as faults:
            outcome = _fit(run, queue, faults)
        if outcome["refusal"]:
            raise InputError(outcome["refusal"])
        if outcome["fault"]:
            raise outcome["fault"].raised_by("finetune")
    except Exception as error:
        work.write_progress(failure=last_line(error))
        raise
    manifest = _complete(run, selected, outcome, work.seconds)
    _remove(run.table("training"))
    return manifest


def _complete(run: Run, selected: dict[str, Selected], outcome: dict[str, Any], seconds: dict[str, float]) -> Manifest:
    recipe = run.recipe.classifier
    num_silver = {NUM_SILVER: selected["silver"].num_in} if "silver" in selected else {}
    return run.complete(
        "checkpoint",
        outcome["parts"],
        num_left_out(selected),
        num_in=sum(phase.num_in for phase in selected.values()),
        num_kept=sum(len(phase.train) + len(phase.held_out) for phase in selected.values()),
        counts=counts(selected) | num_silver | {"num_steps": outcome["num_steps"], "num_workers": recipe.num_workers},
        measures=outcome["measures"],
        wall_seconds=seconds["wall_seconds"],
        busy_seconds=seconds["busy_seconds"],
        accelerator_seconds=seconds["wall_seconds"] * recipe.num_workers if recipe.use_gpu else 0.0,
    )


# Ray Train


def _fit(run: Run, queue: Queue, faults: Faults) -> dict[str, Any]:
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
        **node_claim(recipe.node_resource),
    }
    trainer = TorchTrainer(
        train,  # type: ignore[arg-type]
        train_loop_config={"run": run, "queue": queue, "faults": faults},
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
        if fault := faults.found():
            raise fault.raised_by("finetune") from error
        last = str(error).strip().rpartition("\n")[2]
        raise RuntimeError(
            f"finetune: its workers failed more than {recipe.max_failures} times (classifier.max_failures), last "
            f"with: {last}; training checkpoints are kept, run the job again to resume"
        ) from error


def _ray_storage(training: TableDirectory) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """The run's own filesystem as Ray Train takes it, and the path on it."""
    if is_local(training.filesystem):
        return pyarrow.fs.LocalFileSystem(), training.path()
    return pyarrow.fs.PyFileSystem(_LiteralPaths(training.filesystem)), training.path()


class _LiteralPaths(pyarrow.fs.FSSpecHandler):
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


def _require_resources(recipe: ClassifierRecipe) -> None:
    """Refuse what a Ray of this machine alone can never give; a cluster may still grow."""
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


def _remove(training: TableDirectory) -> None:
    """Training checkpoints (weights, optimizer) have no use once the result is complete."""
    remove_folder(training.filesystem, training.path())


# How far it is


class _Work:
    """How far training is, and the time it took, over all starts of the stage."""

    def __init__(self, checkpoint: TableDirectory, recipe: ClassifierRecipe) -> None:
        self._file, self._num_workers = ProgressFile(checkpoint, unit="steps"), recipe.num_workers
        self._done, self._total = self._file.earlier.get("done", 0), self._file.earlier.get("total")
        self._busy_before = self._busy_now = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """``wall_seconds`` and ``busy_seconds`` (of all workers) of all starts together."""
        return self._file.seconds(busy_seconds=(self._busy_before + self._busy_now) * self._num_workers)

    def tell(self, told: Told) -> None:
        """What rank 0 said of itself; after a failure a new one starts counting its seconds anew."""
        if told.busy_seconds < self._busy_now:
            self._busy_before += self._busy_now
        self._done, self._total, self._busy_now = told.num_done, told.num_steps, told.busy_seconds
        self._file.write_now_and_then(self._done, self._total, self.seconds)

    def write_progress(self, failure: str | None = None) -> None:
        """What ``llambert status`` reads."""
        self._file.write(self._done, self._total, self.seconds, failure)


@contextlib.contextmanager
def _progress(work: _Work) -> Iterator[Queue]:
    """A progress bar, a line per epoch and ``progress.json``, by a thread from what rank 0 puts into the queue.

    None ends the thread. Ray's own queue: an actor of a class of this module would import PyTorch and hold
    half a gigabyte for three numbers. It stands on the driver's own node: another may be lost, and training goes on.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def draw() -> None:
        with contextlib.ExitStack() as stack:
            progress: Progress | None = None
            while (told := queue.get()) is not None:
                work.tell(told)
                if progress is None:
                    progress = stack.enter_context(Progress("finetune", told.num_steps, "steps", told.num_done))
                progress.advance(max(0, told.num_done - progress.done))  # after a worker's failure it goes back
                if told.line:
                    print(told.line, flush=True)

    thread = threading.Thread(target=draw, name="finetune-progress", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown(force=True)
