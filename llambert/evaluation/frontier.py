"""What an answer of the oracle buys: agreement with it, and accuracy, by how many records it decides.

Computed from a certification sample. A threshold defers the records with lower scores to the oracle; as it rises from
the lowest score to above the highest, the oracle decides more and the classifier less.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.metrics import Estimate

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FrontierPoint:
    """Some records keep the classifier's label, and the oracle decides the others."""

    num_decided: int
    """Records that the oracle decides, of all: those of the training, of the certification sample, and the deferred."""
    agreement: Estimate
    """Share of all records whose final label is the oracle's. An answer without a category is no agreement."""
    accuracy: Estimate | None
    """Share of all records whose final label is the gold one; None without gold labels in the sample."""


@dataclass(frozen=True)
class Frontier:
    """A certification sample, arrays of shape (n,), and the scores of the records that it was drawn from."""

    num_records: int
    """Of the whole population."""
    num_open: int
    """Records that the oracle has not decided: neither those of the training, nor the sample."""
    open_score: NDArray[np.float32]
    """Scores of these, sorted from low to high; a few more or less do no harm, since shares of them are used."""
    score: NDArray[np.float32]
    classifier_agrees: Mask
    """The classifier's label is the oracle's."""
    is_usable: Mask
    """The oracle's answer names a category. Otherwise the final label is the classifier's, whatever is kept."""
    has_gold: Mask
    classifier_right: Mask
    """By gold; means nothing where there is none."""
    oracle_right: Mask
    """The same of the oracle's answer."""

    def at(self, kept: Mask, num_deferred: int) -> FrontierPoint:
        """The point at which these sampled records keep their label, and ``num_deferred`` open ones do not.

        The figures of the open records and of the others are estimated from one sample, and the bounds are the sums
        of Wilson's, weighted: an interval that is wider than it has to be. They hold for a point chosen beforehand, not
        for all points at once.
        """
        num, open_share = len(self.score), self.num_open / self.num_records
        final_agrees = np.where(kept, self.classifier_agrees, True) & self.is_usable
        by_oracle = Estimate.share(int(self.is_usable.sum()), num)
        agreement = _mixed(Estimate.share(int(final_agrees.sum()), num), by_oracle, open_share)
        accuracy = None
        if num_gold := int(self.has_gold.sum()):
            of_oracle = np.where(self.is_usable, self.oracle_right, self.classifier_right)
            final_right = np.where(kept, self.classifier_right, of_oracle)
            right, right_by_oracle = (
                Estimate.share(int(each[self.has_gold].sum()), num_gold) for each in (final_right, of_oracle)
            )
            accuracy = _mixed(right, right_by_oracle, open_share)
        return FrontierPoint(self.num_records - self.num_open + num_deferred, agreement, accuracy)

    def points(self, num: int) -> list[FrontierPoint]:
        """Points from no open record deferred to all of them, in ``num`` equal steps, the lowest scores first.

        Equal scores stay together: then a step is shorter, and one that leads nowhere is left out.
        """
        found: dict[int, FrontierPoint] = {}
        total = len(self.open_score)
        for place in np.linspace(0, total, num + 1).round().astype(int).tolist():
            threshold = self.open_score[place] if place < total else np.float32(np.inf)
            num_below = int(np.searchsorted(self.open_score, threshold))
            num_deferred = round(num_below / total * self.num_open) if total else 0
            found.setdefault(num_deferred, self.at(self.score >= threshold, num_deferred))
        return list(found.values())


def _mixed(of_open: Estimate, of_decided: Estimate, open_share: float) -> Estimate:
    """A share of all records, of which ``open_share`` are like ``of_open`` and the others like ``of_decided``."""
    low, value, high = (
        open_share * one + (1 - open_share) * other
        for one, other in (
            (of_open.bounds[0], of_decided.bounds[0]),
            (of_open.value, of_decided.value),
            (of_open.bounds[1], of_decided.bounds[1]),
        )
    )
    return Estimate(value, low, high, of_open.num)
