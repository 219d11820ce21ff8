"""What goes into the checkpoint's folder beside the model: model card, training record, TensorBoard file."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from tensorboardX import SummaryWriter

from llambert import __version__
from llambert.recipe import Recipe
from llambert.tasks import Task
from llambert.training.loop import History

TRAINING_RECORD = "training_record.json"
_REGIMES = {
    "gold": "people's labels (gold)",
    "silver": "an LLM's labels (silver)",
    "silver_extra": "an LLM's labels (silver), those of the extra records included",
    "combined": "an LLM's labels (silver), then people's (gold)",
}


def write_descriptions(folder: Path, recipe: Recipe, task: Task, history: History, counts: dict[str, int]) -> None:
    """Write ``README.md``, ``training_record.json`` and TensorBoard events below ``runs/`` into ``folder``.

    ``counts``: records trained on, held out and left out, as in the manifest.
    """
    (folder / "README.md").write_text(model_card(recipe, task, history, counts), encoding="utf-8")
    record = training_record(recipe, task, history, counts)
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_tensorboard(folder / "runs", history)


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
    metrics = ("accuracy", "macro_f1", "calibration_error", "loss")
    epochs = [
        f"| {figures['phase']} | {figures['epoch']} | {figures['training_loss']:.4f} | "
        + " | ".join(f"{figures[name]:.4f}" if name in figures else "" for name in metrics)
        + " |"
        for figures in history.epochs
    ]
    held_out = "gold labels" if classifier.regime == "gold" else "silver labels, which the annotator gave"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [llambert, weak-supervision]",
        "---",
        f"# {recipe.name}",
        "",
        f"Answers: {task.question} Categories: {', '.join(task.category_names)}.",
        f"`{classifier.model}` fine-tuned on {_REGIMES[classifier.regime]}, by the method of LlamBERT",
        "(arXiv 2403.15938).",
        "",
        "## Training data",
        f"- Corpus: {recipe.corpus.path}",
        f"- Annotator: {annotator.model} ({annotator.engine}, mode {annotator.mode}, prior correction "
        f"{recipe.parse.prior_correction}), asked about {annotator.num_records:,} records",
        *(f"- {name.replace('_', ' ')}: {count:,}" for name, count in counts.items()),
        "",
        "## Figures on held-out records",
        f"Against {held_out}; a model that repeated the annotator would score best here.",
        "",
        "| phase | epoch | training loss | accuracy | macro F1 | calibration error | loss |",
        "|---|---|---|---|---|---|---|",
        *epochs,
        "",
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


def write_tensorboard(folder: Path, history: History) -> None:
    """The curves as a TensorBoard event file; steps count on through the phases."""
    with SummaryWriter(str(folder)) as writer:
        for number, step in enumerate(history.steps, start=1):
            writer.add_scalar("train/loss", step.loss, number)
            writer.add_scalar("train/learning_rate", step.learning_rate, number)
            writer.add_scalar("train/grad_norm", step.grad_norm, number)
        done_before: dict[str, int] = {}
        for number, step in enumerate(history.steps):
            done_before.setdefault(step.phase, number)
        for figures in history.epochs:
            at = done_before[figures["phase"]] + figures["step"]
            for name, value in figures.items():
                if isinstance(value, float):
                    writer.add_scalar(f"held_out/{name}", value, at)
    # The library puts time, host and process into the name; the folder should not depend on where it was made.
    (written,) = folder.iterdir()
    written.rename(folder / "events.out.tfevents.llambert")
