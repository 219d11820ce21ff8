"""Cells aggregated over seeds: means, intervals and differences; and the rows of the ``metrics`` table."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from llambert import schema
from llambert.evaluation.metrics import CONFIDENCE_LEVEL, Estimate
from llambert.experiments.cells import CellResult
from llambert.experiments.experiment_recipe import TrainingExperiment
from llambert.experiments.grids import GridEntry

Column = str | int | float

METRICS = pa.schema(
    [
        *schema.METRICS,
        pa.field("row", pa.string(), nullable=False),
        pa.field("mislabel_share", pa.float64()),
        pa.field("frozen_encoder", pa.bool_()),
        pa.field("seconds", pa.float64()),
    ]
)
"""``schema.METRICS``, then where the figure stands, what a cell of the mislabelling figure is, and its seconds.
With a seed the bounds are over the test records, without one over the seeds."""


@dataclass(frozen=True)
class Results:
    """The stored cells of an experiment. ``found``: its entries with their results.

    ``num_overlapping``: test records that were left out because they, or their texts, are among those to learn from.
    """

    found: list[tuple[GridEntry, CellResult]]
    num_places: int
    num_overlapping: int = 0

    @cached_property
    def accuracies(self) -> dict[str, dict[Column, dict[int, float]]]:
        """Row -> column -> seed -> accuracy of what is stored, in the order of the experiment."""
        accuracies: dict[str, dict[Column, dict[int, float]]] = {}
        for entry, stored in self.found:
            accuracies.setdefault(entry.row, {}).setdefault(entry.column, {})[entry.seed] = stored.accuracy
        return accuracies

    def by_seed(self, row: str, column: Column) -> dict[int, float]:
        """Accuracy of one place of the table, for each seed that is stored."""
        return self.accuracies.get(row, {}).get(column, {})

    def columns(self, row: str) -> list[Column]:
        """The columns of a row that have something stored, in the order of the experiment."""
        return list(self.accuracies.get(row, {}))

    def curves(self) -> dict[str, dict[Column, Estimate]]:
        """Row -> column -> mean accuracy over the seeds that are stored."""
        return {
            row: {column: mean_over_seeds(list(by_seed.values())) for column, by_seed in columns.items()}
            for row, columns in self.accuracies.items()
        }

    def difference(self, first: tuple[str, Column], second: tuple[str, Column]) -> Estimate | None:
        """Accuracy of the first place minus that of the second, seed by seed."""
        ours, theirs = self.by_seed(*first), self.by_seed(*second)
        both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        return mean_over_seeds(both) if both else None

    def seconds(self) -> float:
        """Seconds of training, summed over distinct cells."""
        different = {entry.cell.fingerprint: stored.seconds for entry, stored in self.found}
        return sum(different.values())


def mean_over_seeds(values: list[float]) -> Estimate:
    """The mean and its 95 % interval by Student's t; of one seed, no interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, num=len(values))
    half = stats.t.ppf(0.5 + CONFIDENCE_LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Estimate(mean, float(mean - half), float(mean + half), len(values))


def metrics_table(results: Results, experiment: TrainingExperiment) -> pa.Table:
    """One row per cell, and one per row and column of the table with the mean over seeds."""
    rows = []
    for entry, stored in results.found:
        num = len(stored.probabilities)
        estimate = Estimate.share(round(stored.accuracy * num), num)
        rows.append({**_row(experiment, entry, estimate), "seed": entry.seed, "seconds": stored.seconds})
    means = results.curves()
    for entry in {(entry.row, entry.column): entry for entry, _ in results.found}.values():
        rows.append(_row(experiment, entry, means[entry.row][entry.column]))
    return pa.Table.from_pylist(rows, schema=METRICS)


def _row(experiment: TrainingExperiment, entry: GridEntry, accuracy: Estimate) -> dict[str, Any]:
    recipe = entry.cell.recipe
    return {
        "task": experiment.name,
        "model": recipe.model,
        "training_labels": recipe.regime,
        "num_train": entry.cell.num_train,
        "metric": "accuracy",
        "value": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "row": entry.row,
        "mislabel_share": recipe.mislabel_share,
        "frozen_encoder": recipe.freeze_encoder,
    }
