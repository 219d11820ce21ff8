"""Cells: trainings that are stored once, under a fingerprint of everything that determines their result.

::

    STORE/<fingerprint>.json       the settings, the probabilities given to the test records, the seconds
    STORE/<fingerprint>.state      a training under way, so that an interrupted one resumes
    STORE/<fingerprint>.weights    of a silver training, until those that start from it are stored

Files are written atomically. Experiments with the same cell share it; a changed setting, label or model is another
cell.
"""

import io
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from fsspec import AbstractFileSystem

from llambert.annotation.sampling import Purpose
from llambert.experiments.sources import Labels
from llambert.gold_recipe import GoldPhase
from llambert.recipe import TRAINING_VERSION, ClassifierRecipe, digest, result_fields
from llambert.storage.atomic import create_atomically, remove_temporaries, write_atomically
from llambert.storage.locations import open_filesystem
from llambert.storage.reference import content_identity, find_commit, is_hub_name

Kind = Literal["state", "weights"]
"""What is saved of a cell beside its result."""


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
    """Of ``combined``: the silver training from whose weights it starts."""


@dataclass(frozen=True)
class CellResult:
    """The result of a cell. ``probabilities``: float32 (test records, categories). ``seconds``: of training only."""

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
    learned = [*([silver] if plain.learns_silver else []), *(["gold"] if plain.learns_gold else [])]
    first_phase = plain.model_copy(update={"regime": silver, "gold": GoldPhase()})
    return Cell(
        recipe=plain,
        silver=silver,
        num_train=fields["num_records"] + (fields["gold"].num_records or 0),
        fingerprint=digest(
            TRAINING_VERSION,
            {**result_fields(plain), "model": content_identity(plain.model, plain.revision)},
            labels.categories,
            [labels.identities[name] for name in [*learned, "test"]],
            *([Purpose.GOLD_TRAINING] if "gold" in learned else []),
        ),
        starts_from=create_cell(first_phase, labels) if plain.regime == "combined" else None,
    )


@dataclass(frozen=True)
class CellStore:
    """A folder of cells on any filesystem. Picklable."""

    uri: str

    def get(self, cell: Cell) -> CellResult | None:
        """What is stored of a cell, or None."""
        content = self._read(cell, "json")
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
        filesystem, path = self._path(cell, "json")
        create_atomically(filesystem, path, json.dumps(values).encode())
        self.remove(cell, "state")
        remove_temporaries(filesystem, path.rpartition("/")[0], cell.fingerprint)

    def load(self, cell: Cell, kind: Kind) -> dict[str, Any] | None:
        """What was saved of a cell, or None."""
        content = self._read(cell, kind)
        return None if content is None else torch.load(io.BytesIO(content), weights_only=True)

    def save(self, cell: Cell, kind: Kind, values: dict[str, Any]) -> None:
        """Save the state of a training under way, or the weights that other cells start from."""
        sink = io.BytesIO()
        torch.save(values, sink)
        filesystem, path = self._path(cell, kind)
        write_atomically(filesystem, path, sink.getvalue())

    def has(self, cell: Cell, kind: Kind) -> bool:
        """Whether it is saved."""
        filesystem, path = self._path(cell, kind)
        return filesystem.exists(path)

    def remove(self, cell: Cell, kind: Kind) -> None:
        """Remove it if it is saved."""
        filesystem, path = self._path(cell, kind)
        if filesystem.exists(path):
            filesystem.rm_file(path)

    def _path(self, cell: Cell, ending: str) -> tuple[AbstractFileSystem, str]:
        filesystem, folder = open_filesystem(self.uri)
        return filesystem, f"{folder}/{cell.fingerprint}.{ending}"

    def _read(self, cell: Cell, ending: str) -> bytes | None:
        filesystem, path = self._path(cell, ending)
        return filesystem.cat_file(path) if filesystem.exists(path) else None
