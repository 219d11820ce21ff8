"""What a worker of fine-tuning does: train its share, report progress, and, on rank 0, store the result."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from llambert.classifier.chip import chip_name
from llambert.errors import InputError
from llambert.execution import TrainingContext, TrainingProgress
from llambert.passing_faults import PassingFault
from llambert.run import Run
from llambert.stages.finetune.selection import count_annotated, counts, phases, select
from llambert.storage.atomic import create_atomically
from llambert.storage.manifest import Part
from llambert.storage.run_directory import TableDirectory
from llambert.training.card import TENSORBOARD_FILE, TensorBoardLog, write_descriptions
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, History, Observer, Step
from llambert.training.optimization import use_bfloat16


@dataclass(frozen=True)
class Trained:
    """What rank 0 returns: the files of the checkpoint, which are stored, and the figures of its manifest."""

    parts: list[Part]
    num_steps: int
    num_workers: int
    measures: dict[str, float]


def train(run: Run, context: TrainingContext, model: str | None = None) -> Trained:
    """Train the recipe's classifier; rank 0 has uploaded the result by the time it returns.

    ``model``: where the encoder is opened (``provide_model``), by default by its own name.
    ``InputError``: what a user must fix, the same on every worker.
    """
    recipe = run.recipe.classifier
    opened = recipe.model_copy(update={"model": model or recipe.model})
    torch.set_num_threads(max(1, int(recipe.cpus_per_worker)))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tuning, message = None, ""
    try:
        selected = select(run)
        encoder = load_encoder(opened, run.task.category_names)
        observer = _Reporter(context)
        tuning = FineTuning(encoder, phases(run, selected), recipe, run.task.category_names, context.device, observer)
    except PassingFault:
        raise  # of this worker's machine alone
    except InputError as error:
        message = str(error)
    if message := context.first_error(message):
        raise InputError(message)
    assert tuning is not None
    if state := context.latest_state():
        tuning.restore(state)
    observer.on_start(tuning)
    history = tuning.run()  # InputError: losses are summed, and weights equal, before they are checked
    parts = _upload(run, tuning, counts(selected) | count_annotated(run), observer.curves()) if tuning.rank == 0 else []
    observer.report()
    return Trained(parts, len(history.steps), tuning.num_workers, _measures(history) | observer.seconds_per_step())


class _Reporter(Observer):
    """Reports progress to the training's context and to a TensorBoard file.

    The TensorBoard file is replaced at each checkpoint and epoch, so that it can be watched while training runs:
    object stores cannot append. It lies in the ``training`` table until training ends: another driver on the same run
    may have completed the ``checkpoint`` table meanwhile.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.context, self.started = context, time.monotonic()
        self.tuning: FineTuning
        self._step_times: list[tuple[int, float]] = []  # steps done, and when
        self._curves = TensorBoardLog() if context.rank == 0 else None

    def on_start(self, tuning: FineTuning) -> None:
        """Training starts, or resumes from a checkpoint."""
        self.tuning = tuning
        self.report()

    def report(self, line: str = "", figures: dict[str, float] | None = None) -> None:
        """Report the progress of training."""
        tuning = self.tuning
        busy_seconds = (time.monotonic() - self.started) * tuning.num_workers
        self.context.report(
            TrainingProgress(tuning.num_steps_done, tuning.num_steps, busy_seconds, line, figures or {})
        )

    def curves(self) -> bytes:
        """The TensorBoard file so far."""
        assert self._curves is not None
        return self._curves.content(self.tuning.history)

    def seconds_per_step(self) -> dict[str, float]:
        """Seconds per step of this start, from the first look at the losses on: the first steps are slower."""
        if len(self._step_times) < 2:
            return {}
        (first, began), (last, ended) = self._step_times[0], self._step_times[-1]
        return {"seconds_per_step": (ended - began) / (last - first)}

    def on_steps(self, steps: list[Step]) -> None:
        last = steps[-1]
        self._step_times.append((self.tuning.num_steps_done, time.monotonic()))
        figures = {"loss": last.loss, "learning_rate": last.learning_rate, "grad_norm": last.grad_norm}
        self.report(figures=figures)

    def on_epoch(self, figures: dict[str, Any]) -> None:
        num_epochs = {phase.name: phase.epochs for phase in self.tuning.phases}.get(figures["phase"])
        epoch = f" epoch {figures['epoch']}/{num_epochs}" if num_epochs else ""
        line = f"finetune: {figures['phase']}{epoch}, training loss {figures['training_loss']:.4f}"
        held_out = {}
        if "accuracy" in figures:
            held_out = {f"held_out_{name}": figures[name] for name in ("accuracy", "macro_f1", "loss")}
            line += f", held-out labels: accuracy {figures['accuracy']:.2%}, "
            line += f"macro F1 {figures['macro_f1']:.3f}, calibration error {figures['calibration_error']:.3f} "
            line += f"({figures['calibration_error_if_calibrated']:.3f} if perfectly calibrated)"
        self.report(line, held_out)
        self._store_curves()

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        if self.context.save_state(state):
            self._store_curves()

    def _store_curves(self) -> None:
        if self._curves is not None:
            self.context.save_file(TENSORBOARD_FILE, self.curves())


def _upload(run: Run, tuning: FineTuning, num_by_phase: dict[str, int], curves: bytes) -> list[Part]:
    """Write the model folder file by file into the ``checkpoint`` table; its manifest is the driver's."""
    table = run.table("checkpoint")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuning.encoder.save(folder)
        write_descriptions(folder, run.recipe, run.task, tuning.history, num_by_phase, _computed_on(run, tuning))
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return [
            store_file(table, inside, curves if inside == TENSORBOARD_FILE else files[inside].read_bytes())
            for inside in sorted([*files, TENSORBOARD_FILE])
        ]


def _computed_on(run: Run, tuning: FineTuning) -> dict[str, Any]:
    """What, besides the recipe, the last digits of the weights depend on; the chip is that of the first worker."""
    is_bfloat16 = use_bfloat16(run.recipe.classifier.dtype, tuning.device)
    return {
        "chip": chip_name(tuning.device),
        "threads per worker": torch.get_num_threads(),
        "workers": tuning.num_workers,
        "precision": "bfloat16 autocast" if is_bfloat16 else "float32",
    }


def store_file(table: TableDirectory, inside: str, content: bytes) -> Part:
    """Write one file of the result; what is stored under its name then, as a part.

    On the same kind of machine every training writes the same bytes, but for the times of day in the curves: of those
    the first stay, lest a driver alter them below the manifest of another.
    """
    if inside == TENSORBOARD_FILE and not create_atomically(table.filesystem, table.path(inside), content):
        return Part.of_file(inside, table.read_file(inside))
    return table.write_file(inside, content)


def _measures(history: History) -> dict[str, float]:
    """The figures of the result's epoch, for manifest and report."""
    result = history.result_epoch()
    names = ("training_loss", "loss", "accuracy", "macro_f1", "calibration_error", "calibration_error_if_calibrated")
    held_out = {f"held_out_{name}": result[name] for name in names[1:] if name in result}
    return {"training_loss": result["training_loss"], **held_out}
