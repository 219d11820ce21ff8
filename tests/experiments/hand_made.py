"""Results whose accuracies are given, not trained."""

import numpy as np

from llambert.experiments.cells import Cell, Stored
from llambert.experiments.grids import Place
from llambert.experiments.results import Results
from llambert.recipe import ClassifierRecipe


def results(accuracies: dict[tuple[str, str | int | float], list[float]], num_places: int | None = None) -> Results:
    """(row, column) -> the accuracy of each seed."""
    found = []
    for number, ((row, column), values) in enumerate(accuracies.items()):
        for seed, accuracy in enumerate(values):
            recipe = ClassifierRecipe(model="encoder", seed=seed, num_records=100)
            cell = Cell(recipe, "silver", 100, f"{number}-{seed}")
            stored = Stored(accuracy, 30.0, 1, np.zeros((200, 2), dtype=np.float32))
            found.append((Place(row, column, seed, cell), stored))
    return Results(found, num_places or len(found))
