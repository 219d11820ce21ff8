"""The files that describe a checkpoint in its folder: model card, training record, TensorBoard file."""

import json
import platform
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import torch
import transformers
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from llambert import __version__
from llambert.markdown import escape, table
from llambert.recipe import Recipe
from llambert.tasks import Task
from llambert.training.loop import History

TRAINING_RECORD = "training_record.json"
TENSORBOARD_FILE = "runs/events.out.tfevents.llambert"
"""Path of the TensorBoard file in the folder: ``tensorboard --logdir`` finds it."""
_REGIMES = {
    "gold": "people's labels (gold)",
    "silver": "an LLM's labels (silver)",
    "silver_extra": "an LLM's labels (silver), those of the extra records included",
    "combined": "an LLM's labels (silver), then people's (gold)",
}


def write_descriptions(
    folder: Path, recipe: Recipe, task: Task, history: History, counts: dict[str, int], computed_on: dict[str, Any]
) -> None:
    """Write ``README.md`` and ``training_record.json`` into ``folder``.

    ``counts``: records annotated, trained on and held out. ``computed_on``: chip, threads and the like.
    """
    (folder / "README.md").write_text(model_card(recipe, task, history, counts, computed_on), encoding="utf-8")
    record = training_record(recipe, task, history, counts, computed_on)
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def training_record(
    recipe: Recipe, task: Task, history: History, counts: dict[str, int], computed_on: dict[str, Any]
) -> dict[str, Any]:
    """Settings, versions, counts, the loss curve and the held-out figures after each epoch, as JSON values."""
    return {
        "task": task.name,
        "categories": task.category_names,
        "classifier": recipe.classifier.model_dump(mode="json"),
        "annotator": {"model": recipe.annotator.model, "mode": recipe.annotator.mode, "seed": recipe.annotator.seed},
        "versions": {
            "llambert": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "computed_on": computed_on,
        "counts": counts,
        **history.to_dict(),
    }


def model_card(
    recipe: Recipe, task: Task, history: History, counts: dict[str, int], computed_on: dict[str, Any]
) -> str:
    """A model card in the Hugging Face hub's form."""
    classifier = recipe.classifier
    metrics = ("training_loss", "accuracy", "macro_f1", "calibration_error", "calibration_error_if_calibrated", "loss")
    header = ["phase", "epoch", "training loss", "accuracy", "macro F1", "calibration error", "if calibrated", "loss"]
    epochs = [
        [
            figures["phase"],
            str(figures["epoch"]),
            *(f"{figures[name]:.4f}" if name in figures else "" for name in metrics),
        ]
        for figures in history.epochs
    ]
    computed = escape(", ".join(f"{name} {value}" for name, value in computed_on.items()))
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [llambert, weak-supervision]",
        "---",
        f"# {escape(recipe.name)}",
        "",
        f"Answers: {escape(task.question)} Categories: {', '.join(map(escape, task.category_names))}.",
        f"{escape(classifier.model)} fine-tuned on {_REGIMES[classifier.regime]}, by the method of LlamBERT",
        "(arXiv 2403.15938).",
        "",
        "## Training data",
        f"- Corpus: {escape(recipe.corpus.path)}",
        *_annotator(recipe, counts),
        *(f"- {escape(name.replace('_', ' '))}: {count:,}" for name, count in counts.items()),
        *([f"- Labels made wrong on purpose: {share:.1%}"] if (share := classifier.mislabel_share) else []),
        "",
        "## Figures on held-out records",
        *_held_out(recipe),
        "",
        *table(header, epochs),
        "",
        "Calibration error: the expected one in 15 bins of equal mass, as in the report. If calibrated: what chance",
        "alone makes of it where each record is right with its stated probability.",
        "",
        *_class_table(history),
        "## Limits",
        "- It repeats the systematic errors of its labels: a wrong but consistent label is learned like a right one.",
        "- It knows texts like those of its corpus; on others its scores mean little.",
        f"- Texts are cut at {classifier.max_length} tokens.",
        "",
        "## Settings",
        f"{classifier.epochs} epochs, batch size {classifier.batch_size}, learning rate {classifier.learning_rate:g}, "
        f"loss {classifier.loss}, seed {classifier.seed}; everything else is in `{TRAINING_RECORD}`.",
        f"Computed on: {computed}. Another kind of chip,",
        "or other numbers of threads or workers, may change the last digits of the weights, and with them some labels.",
        "",
    ]
    return "\n".join(lines)


def _annotator(recipe: Recipe, counts: dict[str, int]) -> list[str]:
    """The LLM whose labels were trained on, with the number of records that it was asked about; empty for gold."""
    annotator = recipe.annotator
    if not recipe.classifier.learns_silver:
        return []
    of_splits = "" if annotator.splits is None else f" of the splits {', '.join(map(escape, annotator.splits))}"
    return [
        f"- Annotator: {escape(annotator.model)} ({annotator.engine}, mode {annotator.mode}, prior correction "
        f"{recipe.parse.prior_correction}), asked about {counts['num_annotated']:,} records{of_splits}"
    ]


def held_out_labels(recipe: Recipe) -> str:
    """Against which labels the result's held-out figures were computed, and what that makes of them."""
    match recipe.classifier.regime:
        case "gold":
            return "held-out labels of people (gold)"
        case "combined":
            return (
                "held-out labels of people (gold); the silver phase may have learned the LLM's labels of these records"
            )
        case _:
            return "held-out labels of the LLM (silver), not people's; a model that repeated the LLM would score best"


def _held_out(recipe: Recipe) -> list[str]:
    lines = [f"Against {held_out_labels(recipe)}."]
    if recipe.classifier.regime == "combined":
        lines[0] = f"Phase gold: against {held_out_labels(recipe)}. Phase silver: against the LLM's own labels."
    if recipe.classifier.early_stop_patience is not None:
        lines.append("These records also chose the epoch whose weights are the result, which flatters its figures.")
    return lines


def _class_table(history: History) -> list[str]:
    """Precision and recall of each category after the result's epoch; empty if no records were held out."""
    classes = history.result_epoch().get("classes")
    if not classes:
        return []
    rows = [
        [category, f"{figures['precision']:.4f}", f"{figures['recall']:.4f}", f"{figures['num_records']:,}"]
        for category, figures in classes.items()
    ]
    return [*table(["category", "precision", "recall", "records held out"], rows), ""]


def _remove(records: RecordWriter, folder: tempfile.TemporaryDirectory[str]) -> None:
    records.close()
    folder.cleanup()


class TensorBoardLog:
    """The loss curve and the held-out figures as a TensorBoard event file; steps are counted across phases."""

    def __init__(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="llambert-curves-")
        self._file = Path(folder.name, "events")
        # Not a SummaryWriter: its thread may still hold the last points when it is flushed.
        self._records = RecordWriter(str(self._file))
        weakref.finalize(self, _remove, self._records, folder)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._num_steps = self._num_epochs = 0
        self._done_before: dict[str, int] = {}

    def content(self, history: History) -> bytes:
        """The file with all of ``history``; only the events that are new since the last call are written."""
        for number, step in enumerate(history.steps[self._num_steps :], start=self._num_steps + 1):
            self._done_before.setdefault(step.phase, number - 1)
            points = {"loss": step.loss, "learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
            self._add({f"train/{name}": value for name, value in points.items()}, number)
        for figures in history.epochs[self._num_epochs :]:
            points = {f"held_out/{name}": value for name, value in figures.items() if isinstance(value, float)}
            for category, of_class in figures.get("classes", {}).items():
                points |= {f"held_out/{name}/{category}": of_class[name] for name in ("precision", "recall")}
            self._add(points, self._done_before.get(figures["phase"], 0) + figures["step"])
        self._num_steps, self._num_epochs = len(history.steps), len(history.epochs)
        self._records.flush()
        return self._file.read_bytes()

    def _add(self, points: dict[str, float], step: int) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in points.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
