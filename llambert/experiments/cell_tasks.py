"""The cells of an experiment as Ray tasks: in parallel, each stored once, even after an interruption."""

import contextlib
from typing import Any

import ray
import torch
import transformers

from llambert.errors import InputError, last_line
from llambert.execution.progress import Progress
from llambert.execution.ray_executor import connect
from llambert.experiments.cell_training import train_cell
from llambert.experiments.cells import Cell, CellStore
from llambert.experiments.experiment_recipe import TrainingExperiment
from llambert.experiments.sources import Labels
from llambert.recipe import ClassifierRecipe
from llambert.training.encoder import check_encoder


def run_cells(cells: list[Cell], labels: Labels, store: CellStore, experiment: TrainingExperiment) -> None:
    """Train every cell that is not stored, as many at once as the cluster has CPUs (GPUs) for.

    ``InputError``: labels or a model that cannot be learned with. ``RuntimeError``: a cell's process was lost
    ``max_attempts`` times; cells already stored stay.
    """
    distinct = {cell.fingerprint: cell for cell in cells}.values()
    missing = {cell.fingerprint: cell for cell in distinct if store.get(cell) is None}
    starts = {cell.starts_from.fingerprint: cell.starts_from for cell in missing.values() if cell.starts_from}
    work = {key: cell for key, cell in starts.items() if not store.has(cell, "weights")} | missing
    if not work:
        return
    _check_encoders(list(work.values()), labels)
    connect()
    shared = ray.put(labels)
    task = ray.remote(_train).options(
        num_cpus=experiment.cpus_per_cell,
        num_gpus=experiment.gpus_per_cell,
        max_retries=experiment.max_attempts - 1,
        name=f"experiment {experiment.name}",
    )
    running: dict[Any, Cell] = {}
    by_fingerprint: dict[str, Any] = {}
    # Last those that start from others, so that none holds a core while it waits.
    for cell in sorted(work.values(), key=lambda cell: cell.starts_from is not None):
        before = by_fingerprint.get(cell.starts_from.fingerprint) if cell.starts_from else None
        reference = task.remote(cell, shared, store, experiment, cell.fingerprint in starts, before)
        running[reference] = cell
        by_fingerprint[cell.fingerprint] = reference
    _wait(running, experiment.name)
    for cell in starts.values():
        store.remove(cell, "weights")


def _check_encoders(cells: list[Cell], labels: Labels) -> None:
    """``InputError`` for the first encoder that cannot be trained, before Ray starts."""
    fields = ("model", "revision", "max_length", "gradient_checkpointing", "pickled_weights", "trust_remote_code")
    recipes = [ClassifierRecipe(**{name: getattr(cell.recipe, name) for name in fields}) for cell in cells]
    for recipe in {recipe.model_dump_json(): recipe for recipe in recipes}.values():
        check_encoder(recipe, labels.categories)


def _wait(running: dict[Any, Cell], name: str) -> None:
    try:
        with Progress(name, len(running), "cells") as progress:
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                cell = running.pop(done[0])
                try:
                    refusal = ray.get(done[0])
                except ray.exceptions.RayError as error:
                    raise RuntimeError(f"{name}: cell {cell.fingerprint}: {last_line(error)}") from error
                if refusal:
                    raise InputError(refusal)
                progress.advance(1)
    finally:
        for reference in running:
            with contextlib.suppress(ray.exceptions.RayError):  # it ended with its worker
                ray.cancel(reference, force=True)


def _train(
    cell: Cell, labels: Labels, store: CellStore, experiment: TrainingExperiment, keep_weights: bool, _before: Any
) -> str | None:
    """The Ray task; ``_before`` is the outcome of the cell it starts from. What a user must fix is returned."""
    torch.set_num_threads(max(1, int(experiment.cpus_per_cell)))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device("cuda" if experiment.gpus_per_cell > 0 else "cpu")
    try:
        train_cell(cell, labels, store, experiment.store_every_s, keep_weights, device)
    except InputError as error:
        return str(error)
    return None
