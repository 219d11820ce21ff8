"""What a worker of fine-tuning does under Ray Train: train its share, report, and, the first, store the result."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import transformers
from ray.util.metrics import Gauge
from ray.util.queue import Queue

from llambert.errors import InputError
from llambert.run import Run
from llambert.stages.finetune.recurring_faults import Faults
from llambert.stages.finetune.selection import counts, phases, select
from llambert.storage.run_directory import Part, TableDirectory, create_whole, write_whole
from llambert.training.card import CURVES, Curves, write_descriptions
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, History, Observer, Step

_STATE = "state.pt"
_GAUGES = ("loss", "learning_rate", "grad_norm", "held_out_accuracy", "held_out_macro_f1", "held_out_loss")


@dataclass(frozen=True)
class Told:
    """What rank 0 tells the driver: steps done and in all, its seconds since it started, a line to print."""

    num_done: int
    num_steps: int
    busy_seconds: float
    line: str = ""


def train(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's function: ``config`` holds ``run`` and the driver's ``queue``.

    Rank 0 has uploaded the result by the time it returns. What a user must fix is returned as ``refusal``, and a
    fault that would recur as ``fault``: for an exception Ray would start the worker anew.
    """
    faults: Faults = config["faults"]
    if fault := faults.found():
        return {"refusal": "", "fault": fault}
    progress: list[FineTuning] = []
    try:
        return _train(config, progress)
    except Exception as error:
        place = progress[0].num_steps_done if progress else -1
        fault = faults.add(error, ray.train.get_context().get_world_rank(), place)
        if fault and ray.train.get_context().get_world_size() == 1:
            return {"refusal": "", "fault": fault}
        raise  # the others may be waiting for this worker: Ray ends them, and all find the fault when they start anew


def _train(config: dict[str, Any], progress: list[FineTuning]) -> dict[str, Any]:
    """The same without looking after faults; ``progress`` is given the training once it is loaded."""
    run: Run = config["run"]
    recipe = run.recipe.classifier
    torch.set_num_threads(max(1, int(recipe.cpus_per_worker)))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tuning, refusal = None, ""
    try:
        selected = select(run)
        encoder = load_encoder(recipe, run.task.category_names)
        observer = _Reporter(run, config["queue"])
        device = ray.train.torch.get_device()
        tuning = FineTuning(encoder, phases(run, selected), recipe, run.task.category_names, device, observer)
    except InputError as error:
        refusal = str(error)
    if refusal := _first_refusal(refusal):
        return {"refusal": refusal, "fault": None}
    assert tuning is not None
    progress.append(tuning)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            tuning.restore(torch.load(Path(folder, _STATE), map_location="cpu", weights_only=True))
    observer.follow(tuning)
    try:
        history = tuning.run()
    except InputError as error:  # the same on every rank: losses are summed, and weights equal, before the check
        return {"refusal": str(error), "fault": None}
    parts = _upload(run, tuning, counts(selected), observer.curves()) if tuning.rank == 0 else []
    observer.tell()
    measures = _measures(history) | observer.pace()
    return {"refusal": "", "fault": None, "parts": parts, "num_steps": len(history.steps), "measures": measures}


def _first_refusal(refusal: str) -> str:
    """What any worker cannot work with, known to all: none must wait for one that gave up."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return refusal
    refusals: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(refusals, refusal)
    return next((found for found in refusals if found), "")


class _Reporter(Observer):
    """Tells the driver, Ray's metrics, Ray Train's checkpoints and a TensorBoard file how training goes.

    The TensorBoard file is replaced at each checkpoint and epoch, so that it can be watched while training runs:
    object stores cannot append. It lies in the ``training`` table until training ends: another driver on the same run
    may have completed the ``checkpoint`` table meanwhile.
    """

    def __init__(self, run: Run, queue: Queue) -> None:
        self.run, self.queue, self.started = run, queue, time.monotonic()
        self.first = ray.train.get_context().get_world_rank() == 0
        self.tuning: FineTuning
        self.latest: dict[str, float] = {}
        self._looks: list[tuple[int, float]] = []  # steps done, and when
        self._curves = Curves() if self.first else None
        self._gauges = {}
        for name in _GAUGES if self.first else ():
            self._gauges[name] = Gauge(f"llambert_finetune_{name}", f"Fine-tuning: {name}", tag_keys=("run",))
            self._gauges[name].set_default_tags({"run": run.recipe.name})

    def follow(self, tuning: FineTuning) -> None:
        """Training begins, or goes on from a checkpoint."""
        self.tuning = tuning
        self.tell()

    def tell(self, line: str = "") -> None:
        """Say to the driver how far training is."""
        if self.first:
            busy_seconds = time.monotonic() - self.started
            self.queue.put(Told(self.tuning.num_steps_done, self.tuning.num_steps, busy_seconds, line))

    def curves(self) -> bytes:
        """The TensorBoard file so far."""
        assert self._curves is not None
        return self._curves.content(self.tuning.history)

    def pace(self) -> dict[str, float]:
        """Seconds per step of this start, from the first look at the losses on: the first steps are slower."""
        if len(self._looks) < 2:
            return {}
        (first, began), (last, ended) = self._looks[0], self._looks[-1]
        return {"seconds_per_step": (ended - began) / (last - first)}

    def on_steps(self, steps: list[Step]) -> None:
        last = steps[-1]
        self._looks.append((self.tuning.num_steps_done, time.monotonic()))
        self._show({"loss": last.loss, "learning_rate": last.learning_rate, "grad_norm": last.grad_norm})
        self.tell()

    def on_epoch(self, figures: dict[str, Any]) -> None:
        num_epochs = {phase.name: phase.epochs for phase in self.tuning.phases}.get(figures["phase"])
        epoch = f" epoch {figures['epoch']}/{num_epochs}" if num_epochs else ""
        line = f"finetune: {figures['phase']}{epoch}, training loss {figures['training_loss']:.4f}"
        if "accuracy" in figures:
            self._show({f"held_out_{name}": figures[name] for name in ("accuracy", "macro_f1", "loss")})
            line += f", held-out labels: accuracy {figures['accuracy']:.2%}, "
            line += f"macro F1 {figures['macro_f1']:.3f}, calibration error {figures['calibration_error']:.3f}"
        self.tell(line)
        self._store_curves()

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        metrics = {"num_steps": self.tuning.num_steps_done, **self.latest}
        if not self.first:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state(), Path(folder, _STATE))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        self._store_curves()

    def _show(self, figures: dict[str, float]) -> None:
        self.latest |= figures
        for name, gauge in self._gauges.items():
            if name in figures:
                gauge.set(figures[name])

    def _store_curves(self) -> None:
        if self.first:
            table = self.run.table("training")
            write_whole(table.filesystem, table.path(CURVES), self.curves())


def _upload(run: Run, tuning: FineTuning, num_by_phase: dict[str, int], curves: bytes) -> list[Part]:
    """Write the model folder file by file into the ``checkpoint`` table; its manifest is the driver's."""
    table = run.table("checkpoint")
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuning.encoder.save(folder)
        write_descriptions(folder, run.recipe, run.task, tuning.history, num_by_phase)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for inside in sorted([*files, CURVES]):
            content = curves if inside == CURVES else files[inside].read_bytes()
            parts.append(store_file(table, inside, content))
    return parts


def store_file(table: TableDirectory, inside: str, content: bytes) -> Part:
    """Write one file of the result; what is stored under its name then, as a part.

    Every training writes the same bytes, but for the times of day in the curves: of those the first stay, lest a driver
    alter them below the manifest of another.
    """
    path = table.path(inside)
    if inside != CURVES:
        write_whole(table.filesystem, path, content)
    elif not create_whole(table.filesystem, path, content):
        content = table.filesystem.cat_file(path)
    return Part(name=inside, num_rows=0, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _measures(history: History) -> dict[str, float]:
    """The figures of the result's epoch, for manifest and report."""
    result = history.result_epoch()
    names = ("training_loss", "loss", "accuracy", "macro_f1", "calibration_error")
    held_out = {f"held_out_{name}": result[name] for name in names[1:] if name in result}
    return {"training_loss": result["training_loss"], **held_out}
