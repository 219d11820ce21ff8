"""Trainings that are stored once: the tables of fine-tuning are made of such cells, in as many runs as it takes.

A cell is one training by the core (no Ray) on one data set: its settings, the probabilities it gives the test
records, and its time. Its file's name is a digest of everything that decided it, so a stopped benchmark goes on
where it was, two processes may fill one folder, and a changed setting never meets a stale cell.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import torch
import transformers

from llambert import schema
from llambert.experiments.results import mean_over_seeds
from llambert.recipe import ClassifierRecipe, digest
from llambert.training.loop import FineTuning, Observer, Phase
from llambert.training.model import load_encoder
from llambert.training.records import Selected, TrainingSet, select_gold, select_silver

DEFAULT_STORE = Path(__file__).resolve().parents[2] / "runs" / "finetune_cells"
_STORE_EVERY_S = 60.0


def prepare(threads: int) -> None:
    """Threads of this process, and no progress bars of transformers."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class DataSet:
    """What trainings are compared on. ``gold`` and ``test`` are corpus tables with gold labels.

    ``judged_on`` tells apart data sets that have the silver table in common; weights trained on it are shared.
    """

    name: str
    categories: list[str]
    silver: pa.Table
    gold: pa.Table
    test: pa.Table
    judged_on: str = ""

    @cached_property
    def test_codes(self) -> np.ndarray:
        """Category indices of the test records."""
        return np.array([self.categories.index(label) for label in self.test[schema.GOLD_LABEL].to_pylist()])

    @cached_property
    def test_records(self) -> TrainingSet:
        """The test records as the training core takes them."""
        one_hot = np.eye(len(self.categories), dtype=np.float32)[self.test_codes]
        return TrainingSet(self.test[schema.TEXT].to_pylist(), self.test_codes, one_hot, np.ones(len(one_hot)))

    def select(self, recipe: ClassifierRecipe) -> dict[str, Selected]:
        """Phase -> its records."""
        phases = {}
        if recipe.regime != "gold":
            phases["silver"] = select_silver(self.silver, self.categories, recipe)
        if recipe.regime in ("gold", "combined"):
            num = recipe.num_records if recipe.regime == "gold" else recipe.gold.num_records
            phases["gold"] = select_gold(self.gold, self.categories, recipe, num)
        return phases


@dataclass(frozen=True)
class Cell:
    """``probabilities``: float32 (test records, categories). ``seconds``: of the training alone."""

    probabilities: np.ndarray
    accuracy: float
    seconds: float


class Cells:
    """The cells of one data set in a folder. ``keep_weights``: of silver trainings, for the combinations."""

    def __init__(self, folder: Path, data: DataSet, keep_weights: bool = False) -> None:
        self.folder, self.data, self.keep_weights = folder, data, keep_weights
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, recipe: ClassifierRecipe) -> Cell:
        """The cell of these settings, trained if it is not there."""
        file = self._file(recipe)
        if not file.exists():
            self._train(recipe)
        stored = json.loads(file.read_text())
        return Cell(np.array(stored["probabilities"], dtype=np.float32), stored["accuracy"], stored["seconds"])

    def has(self, recipe: ClassifierRecipe) -> bool:
        """Whether the cell is stored."""
        return self._file(recipe).exists()

    def _file(self, recipe: ClassifierRecipe) -> Path:
        rows = [self.data.test.num_rows, self.data.silver.num_rows, self.data.gold.num_rows]
        name = f"{self.data.name}{self.data.judged_on}"
        return self.folder / f"{name}-{recipe.regime}-{recipe.seed}-{_digest(recipe, [name, *rows])}.json"

    def _weights_file(self, recipe: ClassifierRecipe) -> Path:
        """Of a silver training, which no gold label and no test record has a part in."""
        return self.folder / f"{self.data.name}-{recipe.seed}-{_digest(recipe, [self.data.silver.num_rows])}.pt"

    def _train(self, recipe: ClassifierRecipe) -> None:
        selected, categories = self.data.select(recipe), self.data.categories
        rates = {"silver": (recipe.epochs, recipe.learning_rate), "gold": (recipe.epochs, recipe.learning_rate)}
        if recipe.regime == "combined":
            rates["gold"] = (recipe.gold.epochs, recipe.gold.learning_rate)
        phases = [Phase(name, part.train, part.held_out, *rates[name]) for name, part in selected.items()]
        tuning = FineTuning(load_encoder(recipe, categories), phases, recipe, categories)
        state_file = self._file(recipe).with_suffix(".state")
        tuning.observer = keeper = _Keeper(state_file)
        if state_file.exists():
            state = torch.load(state_file, weights_only=True)
            keeper.seconds_before = state["seconds"]
            tuning.restore(state)
        elif recipe.regime == "combined" or (recipe.regime == "silver" and self._weights_file(recipe).exists()):
            tuning.restore(self._silver_state(recipe))
        tuning.run()
        seconds = keeper.seconds()
        probabilities = tuning.predict(tuning.encoder.model, tuning.tokenized(self.data.test_records))
        if recipe.regime == "silver" and self.keep_weights:
            torch.save(tuning.encoder.model.state_dict(), self._weights_file(recipe))
        cell = {
            "settings": recipe.model_dump(mode="json"),
            "accuracy": float((probabilities.argmax(axis=1) == self.data.test_codes).mean()),
            "seconds": round(seconds, 1),
            "probabilities": [[round(float(p), 5) for p in row] for row in probabilities],
        }
        temporary = self._file(recipe).with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(cell))
        temporary.rename(self._file(recipe))
        state_file.unlink(missing_ok=True)

    def _silver_state(self, recipe: ClassifierRecipe) -> dict:
        """Where the gold phase of ``combined`` starts: what the core itself stores between the two phases."""
        silver = recipe.model_copy(update={"regime": "silver"})
        if not self._weights_file(silver).exists():
            self._train(silver)
        weights = torch.load(self._weights_file(silver), weights_only=True)
        return {"phase": 1, "model": weights, "members": {}, "history": {"steps": [], "epochs": []}}


def _digest(recipe: ClassifierRecipe, data: list) -> str:
    # Without defaults, so that a new option leaves the cells that do not use it valid. What the gold phase is
    # set to has no part in the other regimes: their cells are shared.
    fields = recipe.model_dump(mode="json", exclude_defaults=True)
    if recipe.regime != "combined":
        fields.pop("gold", None)
    return digest(fields, *data)


class _Keeper(Observer):
    """Stores a training every minute, so that a stopped one goes on."""

    def __init__(self, file: Path) -> None:
        self.file, self.seconds_before = file, 0.0
        self._started = self._last = time.monotonic()

    def seconds(self) -> float:
        """Of training, those before it was stopped included."""
        return self.seconds_before + time.monotonic() - self._started

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() - self._last < _STORE_EVERY_S:
            return
        self._last = time.monotonic()
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        torch.save({**state(), "seconds": self.seconds()}, temporary)
        temporary.rename(self.file)


def interval(values: list[float] | np.ndarray) -> str:
    """Mean and half width of its 95 % interval over seeds (t), in per cent."""
    estimate = mean_over_seeds(list(values))
    if estimate.low is None:
        return f"{100 * estimate.value:.2f} (one seed)"
    return f"{100 * estimate.value:.2f} ± {100 * (estimate.value - estimate.low):.2f}"
