"""Where the label stage runs and what it computes in, where its recipe leaves that to the device."""

import sys
from dataclasses import replace

from llambert.classifier.chip import FLOAT16_NEEDS_GPU
from llambert.errors import InputError
from llambert.execution import Executor
from llambert.recipe import LabelDtype, LabelRecipe
from llambert.run import Run


def with_label_dtype(run: Run, executor: Executor) -> Run:
    """The run with a ``label.dtype``, on which the fingerprints of its labels depend.

    The driver decides, before any actor exists, so that all parts of a table have one dtype. Nothing is looked for
    where the recipe says enough or the labels are begun: what was begun in one dtype is completed in it, on any device.
    ``InputError`` for float16 where there is no GPU.
    """
    dtype = run.label_dtype or by_device(run.recipe.label, executor)
    label = run.recipe.labelling
    is_open = dtype == "float16" and label.gpus_per_actor is None and run.table("labels").read_manifest() is None
    if is_open and executor.half_precision(label.node_resource) is None:
        raise InputError(FLOAT16_NEEDS_GPU)  # before anything is spent
    return _with_label(run, run.recipe.label.model_copy(update={"dtype": dtype}))


def placed(run: Run, executor: Executor) -> Run:
    """The run whose label section names the GPUs of an actor, too; they are in no fingerprint."""
    return _with_label(run, with_gpus(run.recipe.labelling, executor))


def by_device(recipe: LabelRecipe, executor: Executor) -> LabelDtype:
    """The dtype of labels that are begun now, where the recipe names neither dtype nor GPUs."""
    return executor.half_precision(recipe.node_resource) or "float32"


def with_gpus(recipe: LabelRecipe, executor: Executor) -> LabelRecipe:
    """The recipe with ``gpus_per_actor``: where it says nothing, one if there is one. Needs its dtype."""
    if recipe.gpus_per_actor is None:
        found = executor.half_precision(recipe.node_resource) is not None
        if found:
            _say(f"a GPU for each actor, in {recipe.dtype}; label.gpus_per_actor: 0 would use CPUs")
        recipe = recipe.model_copy(update={"gpus_per_actor": 1.0 if found else 0.0})
    if recipe.compile and not recipe.gpus_per_actor:
        _say("label.compile is ignored: it is for GPUs, and these actors have none")
    return recipe


def _with_label(run: Run, label: LabelRecipe) -> Run:
    if label == run.recipe.label:
        return run
    return replace(run, recipe=run.recipe.model_copy(update={"label": label}))


def _say(line: str) -> None:
    print(f"label: {line}", file=sys.stderr, flush=True)
