"""Cells aggregated over seeds: means, intervals and differences; and the rows of the ``metrics`` table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from llambert import schema
from llambert.evaluation.metrics import Codes, Estimate
from llambert.experiments.cells import CellResult
from llambert.experiments.experiment_recipe import TrainingExperiment
from llambert.experiments.grids import GridEntry
from llambert.intervals import CONFIDENCE_LEVEL, Z

Column = str | int | float
Place = tuple[str, Column]
"""Row and column of an experiment's table or figure."""

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

    ``gold``: the category of each test record, in the order of the cells' probabilities. ``num_overlapping``: test
    records that were left out because they, or their texts, are among those to learn from.
    """

    found: list[tuple[GridEntry, CellResult]]
    num_places: int
    gold: Codes
    num_overlapping: int = 0

    @cached_property
    def accuracies(self) -> dict[str, dict[Column, dict[int, float]]]:
        """Row -> column -> seed -> accuracy of what is stored, in the order of the experiment."""
        accuracies: dict[str, dict[Column, dict[int, float]]] = {}
        for entry, stored in self.found:
            accuracies.setdefault(entry.row, {}).setdefault(entry.column, {})[entry.seed] = stored.accuracy
        return accuracies

    def columns(self, row: str) -> list[Column]:
        """The columns of a row that have something stored, in the order of the experiment."""
        return list(self.accuracies.get(row, {}))

    def curves(self) -> dict[str, dict[Column, Estimate]]:
        """Row -> column -> mean accuracy over the seeds that are stored."""
        return {
            row: {column: mean_over_seeds(list(by_seed.values())) for column, by_seed in columns.items()}
            for row, columns in self.accuracies.items()
        }

    def difference(self, first: Place, second: Place) -> Estimate | None:
        """Accuracy of the first place minus that of the second."""
        return self.contrast({first: 1.0, second: -1.0})

    def contrast(self, weights: Mapping[Place, float]) -> Estimate | None:
        """A weighted sum of accuracies, weights adding up to 0, over the seeds that all places have; None without.

        Its interval is for other seeds and other test records: differences are taken record by record, seed by seed.
        """
        right: dict[Place, dict[int, NDArray[np.bool_]]] = {place: {} for place in weights}
        for entry, stored in self.found:
            if (place := (entry.row, entry.column)) in right:
                right[place][entry.seed] = stored.probabilities.argmax(axis=1) == self.gold
        first, *others = right.values()
        seeds = [seed for seed in first if all(seed in other for other in others)]
        if not seeds:
            return None
        sums = [sum(weight * right[place][seed] for place, weight in weights.items()) for seed in seeds]
        return mean_over_seeds_and_records(np.stack(sums), largest=sum(map(abs, weights.values())) / 2)

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


def mean_over_seeds_and_records(values: NDArray[np.floating], largest: float) -> Estimate:
    """The mean of values of shape (seeds, records), all between ``-largest`` and ``largest``, and its 95 % interval.

    Both seeds and records are random (a crossed design). Squared, half the interval is the sum of that over seeds by
    Student's t, which holds all that differs between seeds, and z² times the variance of what a record has in common
    over all seeds, by mean squares (Searle, Casella & McCulloch 1992, Variance Components, ch. 4). Such a sum of
    squares covers at least 95 %, however the variance is divided (Banerjee 1961, Sankhya 23:359). It is at least the
    interval over records of the seeds' means, lest a few seeds that agree by chance pass for certainty. One
    pseudo-record of either extreme enters, as in Bonett & Price (2012). No interval of one seed or one record.
    """
    num_seeds, num_records = values.shape
    mean, of_seeds, of_records = values.mean(), values.mean(axis=1), values.mean(axis=0)
    if num_seeds < 2 or num_records < 2:
        return Estimate(float(mean), num=num_seeds)
    residual = values - of_seeds[:, None] - of_records + mean
    seed_variance = of_seeds.var(ddof=1) / num_seeds
    flip_variance = (residual**2).sum() / ((num_seeds - 1) * (num_records - 1) * num_seeds * num_records)
    record_variance = np.append(of_records, [largest, -largest]).var(ddof=1) / (num_records + 2)
    t = stats.t.ppf(0.5 + CONFIDENCE_LEVEL / 2, num_seeds - 1)
    shared = Z**2 * max(record_variance - flip_variance, 0.0)
    half = np.sqrt(max(t**2 * seed_variance, Z**2 * flip_variance) + shared)
    return Estimate(float(mean), float(mean - half), float(mean + half), num_seeds)


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
