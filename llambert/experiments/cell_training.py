"""Train one cell: resume it if it was interrupted, store it when it is finished. No Ray."""

import time
from collections.abc import Callable
from typing import Any

import torch

from llambert.experiments.cells import Cell, CellResult, CellStore
from llambert.experiments.sources import Labels
from llambert.training.encoder import load_encoder
from llambert.training.loop import FineTuning, Observer, Phase
from llambert.training.training_set import select_gold, select_silver


def train_cell(
    cell: Cell, labels: Labels, store: CellStore, store_every_s: float, keep_weights: bool, device: torch.device
) -> None:
    """Train, measure accuracy on the test records, and store; an interrupted training resumes from its last state.

    A ``combined`` cell starts from the kept weights of the silver cell it names, which must be there.
    """
    recipe = cell.recipe
    encoder = load_encoder(recipe, labels.categories)
    saver = _StateSaver(cell, store, store_every_s)
    tuning = FineTuning(encoder, phases_of(cell, labels), recipe, labels.categories, device, saver)
    if state := store.load(cell, "state"):
        saver.seconds_before = state["seconds"]
        tuning.restore(state)
    elif cell.starts_from is not None:
        weights = store.load(cell.starts_from, "weights")
        assert weights is not None, "a combined cell is trained after its silver cell"
        tuning.restore({"phase": 1, "model": weights, "members": {}, "history": {"steps": [], "epochs": []}})
    tuning.run()
    seconds = saver.seconds()
    if keep_weights:
        store.save(cell, "weights", {name: tensor.cpu() for name, tensor in encoder.model.state_dict().items()})
    records = labels.test_records
    probabilities = tuning.predict(encoder.model, tuning.tokenized(records))
    accuracy = float((probabilities.argmax(axis=1) == records.labels).mean())
    store.put(cell, CellResult(accuracy, seconds, torch.get_num_threads(), probabilities))


def phases_of(cell: Cell, labels: Labels) -> list[Phase]:
    """The phases of a cell's training: on which records, for how many epochs."""
    recipe, phases = cell.recipe, []
    if recipe.regime != "gold":
        part = select_silver(labels.silver_of(cell.silver), labels.categories, recipe)
        phases.append(Phase("silver", part.train, part.held_out, recipe.epochs, recipe.learning_rate))
    if recipe.learns_gold:
        settings = recipe if recipe.regime == "gold" else recipe.gold
        part = select_gold(labels.gold_train(), labels.categories, recipe, settings.num_records)
        phases.append(Phase("gold", part.train, part.held_out, settings.epochs, settings.learning_rate))
    return phases


class _StateSaver(Observer):
    """Saves the state of a training every ``every_s`` seconds."""

    def __init__(self, cell: Cell, store: CellStore, every_s: float) -> None:
        self.cell, self.store, self.every_s, self.seconds_before = cell, store, every_s, 0.0
        self._started = self._last = time.monotonic()

    def seconds(self) -> float:
        """Seconds of training, including those before an interruption."""
        return self.seconds_before + time.monotonic() - self._started

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() - self._last < self.every_s:
            return
        self.store.save(self.cell, "state", {**state(), "seconds": self.seconds()})
        self._last = time.monotonic()
