"""Cells summed up over seeds: means, intervals and differences; and the rows of the ``metrics`` table."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from llambert import schema
from llambert.evaluation.metrics import CONFIDENCE_LEVEL, Estimate
from llambert.experiments.cells import Stored
from llambert.experiments.experiment_recipe import Trainings
from llambert.experiments.grids import Place

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
    """The stored cells of an experiment. ``found``: its places with what is stored of them.

    ``num_seen``: test records that were left out because they, or their texts, are among those to learn from.
    """

    found: list[tuple[Place, Stored]]
    num_places: int
    num_seen: int = 0

    def by_seed(self, row: str, column: Column) -> dict[int, float]:
        """Accuracy of one place of the table, for each seed that is stored."""
        return {
            place.seed: stored.accuracy for place, stored in self.found if place.row == row and place.column == column
        }

    def mean(self, row: str, column: Column) -> Estimate | None:
        """Mean accuracy over seeds; None where nothing is stored yet."""
        values = self.by_seed(row, column)
        return mean_over_seeds(list(values.values())) if values else None

    def difference(self, first: tuple[str, Column], second: tuple[str, Column]) -> Estimate | None:
        """Accuracy of the first place minus that of the second, seed by seed."""
        ours, theirs = self.by_seed(*first), self.by_seed(*second)
        both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        return mean_over_seeds(both) if both else None

    def rows(self) -> list[str]:
        """Encoders or curves, in the order of the experiment."""
        return list(dict.fromkeys(place.row for place, _ in self.found))

    def columns(self, row: str) -> list[Column]:
        """Where a row has something stored, in the order of the experiment."""
        return list(dict.fromkeys(place.column for place, _ in self.found if place.row == row))

    def seconds(self) -> float:
        """Of training, summed over the different cells."""
        different = {place.cell.fingerprint: stored.seconds for place, stored in self.found}
        return sum(different.values())


def mean_over_seeds(values: list[float]) -> Estimate:
    """The mean and its 95 % interval by Student's t; of one seed, no interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, num=len(values))
    half = stats.t.ppf(0.5 + CONFIDENCE_LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Estimate(mean, float(mean - half), float(mean + half), len(values))


def metrics_table(results: Results, experiment: Trainings) -> pa.Table:
    """A row a cell, and a row a place of the table with the mean over seeds."""
    rows = [_row(experiment, place, stored) for place, stored in results.found]
    means = {(place.row, place.column): place for place, _ in results.found}
    for (row, column), place in means.items():
        estimate = results.mean(row, column)
        assert estimate is not None
        bounds = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        rows.append({**_about(experiment, place), "seed": None, **bounds, "seconds": None})
    return pa.Table.from_pylist(rows, schema=METRICS)


def _row(experiment: Trainings, place: Place, stored: Stored) -> dict:
    num = len(stored.probabilities)
    estimate = Estimate.share(round(stored.accuracy * num), num)
    bounds = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {**_about(experiment, place), "seed": place.seed, **bounds, "seconds": stored.seconds}


def _about(experiment: Trainings, place: Place) -> dict:
    recipe = place.cell.recipe
    return {
        "task": experiment.name,
        "model": recipe.model,
        "training_labels": recipe.regime,
        "num_train": place.cell.num_train,
        "metric": "accuracy",
        "row": place.row,
        "mislabel_share": recipe.mislabel_share,
        "frozen_encoder": recipe.freeze_encoder,
    }
