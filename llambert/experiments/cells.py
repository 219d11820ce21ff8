"""Cells: trainings that are stored once, under a fingerprint of everything that decides them.

::

    STORE/<fingerprint>.json       the settings, the probabilities given to the test records, the seconds
    STORE/<fingerprint>.state      a training under way, so that a killed one goes on
    STORE/<fingerprint>.weights    of a silver training, until those that start from it are stored

Files appear whole. Experiments with the same cell find each other's; a changed setting, label or model is
another cell.
"""

import io
import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from llambert.annotation.sampling import Purpose
from llambert.experiments.sources import Labels
from llambert.recipe import ClassifierRecipe, GoldPhase, digest, result_fields
from llambert.storage.reference import content_identity, find_commit, is_hub_name
from llambert.storage.run_directory import create_whole, open_filesystem, remove_temporaries, write_whole


@dataclass(frozen=True)
class Cell:
    """One training. ``silver`` says which silver records it learns from: ``silver`` or ``silver_extra``.

    ``recipe.regime`` is ``gold``, ``silver`` or ``combined``; what cannot change the result is at its default.
    """

    recipe: ClassifierRecipe
    silver: str
    num_train: int
    fingerprint: str
    starts_from: Self | None = None
    """Of ``combined``: the silver training whose weights it goes on from."""


@dataclass(frozen=True)
class CellResult:
    """What a cell came to. ``probabilities``: float32 (test records, categories). ``seconds``: of training alone."""

    accuracy: float
    seconds: float
    num_threads: int
    probabilities: np.ndarray


def create_cell(recipe: ClassifierRecipe, labels: Labels) -> Cell:
    """The cell of these settings; ``InputError`` if the labels it needs are not there."""
    silver = "silver" if recipe.regime == "silver" else "silver_extra"
    num_gold = labels.gold_train().num_rows if recipe.learns_gold else 0
    num_silver = labels.silver_of(silver).num_rows if recipe.learns_silver else 0
    fields: dict[str, Any] = {"num_records": min(recipe.num_records or num_silver + num_gold, num_silver or num_gold)}
    if recipe.regime == "combined":
        num = min(recipe.gold.num_records or num_gold, num_gold)
        fields["gold"] = recipe.gold.model_copy(update={"num_records": num})
    else:
        fields |= {"gold": GoldPhase(), "regime": "gold" if recipe.regime == "gold" else "silver"}
    if is_hub_name(recipe.model):
        fields["revision"] = find_commit(recipe.model, recipe.revision)
    plain = recipe.model_copy(update=fields)
    learned = [{"gold": "gold"}.get(plain.regime, silver), *(["gold"] if plain.regime == "combined" else [])]
    return Cell(
        recipe=plain,
        silver=silver,
        num_train=fields["num_records"] + (fields["gold"].num_records or 0),
        fingerprint=digest(
            {**result_fields(plain), "model": content_identity(plain.model, plain.revision)},
            labels.categories,
            [labels.identities[name] for name in [*learned, "test"]],
            *([Purpose.GOLD_TRAINING] if "gold" in learned else []),
        ),
        starts_from=create_cell(_first_phase(plain, silver), labels) if plain.regime == "combined" else None,
    )


def _first_phase(recipe: ClassifierRecipe, silver: str) -> ClassifierRecipe:
    return recipe.model_copy(update={"regime": silver, "gold": GoldPhase()})


@dataclass(frozen=True)
class CellStore:
    """A folder of cells on any filesystem. Picklable."""

    uri: str

    def get(self, cell: Cell) -> CellResult | None:
        """What is stored of a cell, or None."""
        content = self._read(f"{cell.fingerprint}.json")
        if content is None:
            return None
        found = json.loads(content)
        probabilities = np.array(found["probabilities"], dtype=np.float32)
        return CellResult(found["accuracy"], found["seconds"], found["num_threads"], probabilities)

    def put(self, cell: Cell, stored: CellResult) -> None:
        """Store a cell; of two that were trained at once the first stays.

        Its training state goes, and what a killed training left half written.
        """
        values = {
            "settings": result_fields(cell.recipe),
            "num_train": cell.num_train,
            "accuracy": stored.accuracy,
            "seconds": round(stored.seconds, 1),
            "num_threads": stored.num_threads,
            "probabilities": [[round(float(p), 5) for p in row] for row in stored.probabilities],
        }
        filesystem, folder = open_filesystem(self.uri)
        create_whole(filesystem, f"{folder}/{cell.fingerprint}.json", json.dumps(values).encode())
        self._remove(f"{cell.fingerprint}.state")
        remove_temporaries(filesystem, folder, cell.fingerprint)

    def read_state(self, cell: Cell) -> dict[str, Any] | None:
        """The training of a cell as far as it was stored."""
        return self._load(f"{cell.fingerprint}.state")

    def write_state(self, cell: Cell, state: dict[str, Any]) -> None:
        """Store a training under way."""
        self._save(f"{cell.fingerprint}.state", state)

    def has_weights(self, cell: Cell) -> bool:
        """Whether the weights that a silver cell ended with are kept."""
        filesystem, folder = open_filesystem(self.uri)
        return filesystem.exists(f"{folder}/{cell.fingerprint}.weights")

    def read_weights(self, cell: Cell) -> dict[str, Any] | None:
        """The weights that a silver cell ended with, if they are kept."""
        return self._load(f"{cell.fingerprint}.weights")

    def write_weights(self, cell: Cell, weights: dict[str, Any]) -> None:
        """Keep the weights for the cells that start from them."""
        self._save(f"{cell.fingerprint}.weights", weights)

    def remove_weights(self, cell: Cell) -> None:
        """Every cell that starts from them is stored."""
        self._remove(f"{cell.fingerprint}.weights")

    def _load(self, name: str) -> dict[str, Any] | None:
        content = self._read(name)
        return None if content is None else torch.load(io.BytesIO(content), weights_only=True)

    def _save(self, name: str, values: dict[str, Any]) -> None:
        sink = io.BytesIO()
        torch.save(values, sink)
        filesystem, folder = open_filesystem(self.uri)
        write_whole(filesystem, f"{folder}/{name}", sink.getvalue())

    def _read(self, name: str) -> bytes | None:
        filesystem, folder = open_filesystem(self.uri)
        try:
            return filesystem.cat_file(f"{folder}/{name}")
        except FileNotFoundError:
            return None

    def _remove(self, name: str) -> None:
        filesystem, folder = open_filesystem(self.uri)
        if filesystem.exists(f"{folder}/{name}"):
            filesystem.rm_file(f"{folder}/{name}")
