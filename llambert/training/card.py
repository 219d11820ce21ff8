"""The files that describe a checkpoint in its folder: model card, training record, TensorBoard file."""

import json
import platform
import tempfile
import time
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


def write_descriptions(folder: Path, recipe: Recipe, task: Task, history: History, counts: dict[str, int]) -> None:
    """Write ``README.md`` and ``training_record.json`` into ``folder``.

    ``counts``: records trained on, held out and left out, as in the manifest.
    """
    (folder / "README.md").write_text(model_card(recipe, task, history, counts), encoding="utf-8")
    record = training_record(recipe, task, history, counts)
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def training_record(recipe: Recipe, task: Task, history: History, counts: dict[str, int]) -> dict[str, Any]:
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
        "counts": counts,
        **history.to_dict(),
    }


def model_card(recipe: Recipe, task: Task, history: History, counts: dict[str, int]) -> str:
    """A model card in the Hugging Face hub's form."""
    classifier, annotator = recipe.classifier, recipe.annotator
    metrics = ("training_loss", "accuracy", "macro_f1", "calibration_error", "loss")
    epochs = [
        [
            figures["phase"],
            str(figures["epoch"]),
            *(f"{figures[name]:.4f}" if name in figures else "" for name in metrics),
        ]
        for figures in history.epochs
    ]
    of_splits = "" if annotator.splits is None else f" of the splits {', '.join(annotator.splits)}"
    held_out = "gold labels" if classifier.regime == "gold" else "silver labels, which the annotator gave"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [llambert, weak-supervision]",
        "---",
        f"# {recipe.name}",
        "",
        f"Answers: {escape(task.question)} Categories: {', '.join(map(escape, task.category_names))}.",
        f"`{classifier.model}` fine-tuned on {_REGIMES[classifier.regime]}, by the method of LlamBERT",
        "(arXiv 2403.15938).",
        "",
        "## Training data",
        f"- Corpus: {escape(recipe.corpus.path)}",
        f"- Annotator: {annotator.model} ({annotator.engine}, mode {annotator.mode}, prior correction "
        f"{recipe.parse.prior_correction}), asked about {annotator.num_records:,} records{of_splits}",
        *(f"- {name.replace('_', ' ')}: {count:,}" for name, count in counts.items()),
        "",
        "## Figures on held-out records",
        f"Against {held_out}; a model that repeated the annotator would score best here.",
        "",
        *table(["phase", "epoch", "training loss", "accuracy", "macro F1", "calibration error", "loss"], epochs),
        "",
        *_class_table(history),
        "## Limits",
        "- It repeats the annotator's systematic errors: a wrong but consistent label is learned like a right one.",
        "- It knows texts like those of its corpus; on others its scores mean little.",
        f"- Texts are cut at {classifier.max_length} tokens.",
        "",
        "## Settings",
        f"{classifier.epochs} epochs, batch size {classifier.batch_size}, learning rate {classifier.learning_rate:g}, "
        f"loss {classifier.loss}, seed {classifier.seed}; everything else is in `{TRAINING_RECORD}`.",
        "",
    ]
    return "\n".join(lines)


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


class TensorBoardLog:
    """The loss curve and the held-out figures as a TensorBoard event file; steps are counted across phases."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name, "events")
        # Not a SummaryWriter: its thread may still hold the last points when it is flushed.
        self._records = RecordWriter(str(self._file))
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
