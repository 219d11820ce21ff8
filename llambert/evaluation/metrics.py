"""Quality figures with 95 % intervals: accuracy, differences, confusion, risk and coverage.

Arrays of categories are integer codes in task order. Every function takes plain numpy arrays and does no input
or output; every interval's source is named where it is computed.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.intervals import CONFIDENCE_LEVEL, Z

Codes = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; ``low`` and ``high`` are None where the figure is not estimated but counted."""

    value: float
    low: float | None = None
    high: float | None = None
    num: int = 0
    """Records it rests on."""

    @property
    def bounds(self) -> tuple[float, float]:
        """``low`` and ``high`` of a figure that has an interval."""
        assert self.low is not None, "this figure has no interval"
        assert self.high is not None, "this figure has no interval"
        return self.low, self.high

    @classmethod
    def share(cls, num_hits: int, num: int) -> Self:
        """``num_hits`` of ``num`` with the Wilson score interval (Wilson 1927, JASA 22:209)."""
        assert 0 <= num_hits <= num, f"{num_hits} of {num} is no share"
        assert num > 0, "a share of nothing"
        interval = stats.binomtest(num_hits, num).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
        return cls(num_hits / num, float(interval.low), float(interval.high), num)


def accuracy(gold: Codes, predicted: Codes) -> Estimate:
    """Share of records whose predicted category is the gold one, with its Wilson interval."""
    return Estimate.share(int((gold == predicted).sum()), len(gold))


def independent_difference(first: Estimate, second: Estimate) -> Estimate:
    """``first - second`` for shares of two disjoint sets of records.

    Newcombe's hybrid score interval (Newcombe 1998, Statistics in Medicine 17:873, method 10), built from
    the two Wilson intervals.
    """
    (first_low, first_high), (second_low, second_high) = first.bounds, second.bounds
    difference = first.value - second.value
    below = np.hypot(first.value - first_low, second_high - second.value)
    above = np.hypot(first_high - first.value, second.value - second_low)
    return Estimate(difference, float(difference - below), float(difference + above), first.num + second.num)


def paired_difference(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> Estimate:
    """Accuracy of the first minus that of the second on the *same* records.

    Adjusted Wald interval (Bonett & Price 2012, J. Educational and Behavioral Statistics 37:479): one
    pseudo-record is added to each discordant cell.
    """
    num = len(first_right)
    assert num > 0, "a difference on no records"
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    p_first, p_second = (only_first + 1) / (num + 2), (only_second + 1) / (num + 2)
    centre = p_first - p_second
    half = Z * np.sqrt((p_first + p_second - centre**2) / (num + 2))
    low, high = max(-1.0, float(centre - half)), min(1.0, float(centre + half))
    return Estimate((only_first - only_second) / num, low, high, num)


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 of one category. None where no record was predicted, or is, of that category."""

    category: str
    num_gold: int
    precision: Estimate | None
    recall: Estimate | None
    f1: float


def confusion(gold: Codes, predicted: Codes, num_categories: int) -> NDArray[np.int64]:
    """Counts of shape (gold category, predicted category)."""
    # Imported here: it takes a second, and certify and a complete report need other figures of this module alone.
    from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

    return sklearn_confusion_matrix(gold, predicted, labels=np.arange(num_categories)).astype(np.int64)


def class_figures(matrix: NDArray[np.int64], categories: list[str]) -> list[ClassFigures]:
    """Per category, from a confusion matrix: shares with Wilson intervals, F1 as their harmonic mean."""
    hits, num_predicted, num_gold = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    return [
        ClassFigures(
            category=category,
            num_gold=int(gold),
            precision=Estimate.share(int(hit), int(predicted)) if predicted else None,
            recall=Estimate.share(int(hit), int(gold)) if gold else None,
            f1=float(2 * hit / (predicted + gold)) if predicted + gold else 0.0,
        )
        for category, hit, predicted, gold in zip(categories, hits, num_predicted, num_gold, strict=True)
    ]


@dataclass(frozen=True)
class CoveragePoint:
    """Keeping only the ``coverage`` most confident records, from ``threshold`` up, ``accuracy`` of them are right."""

    threshold: float
    coverage: float
    accuracy: Estimate


def risk_coverage(score: Floats, right: NDArray[np.bool_], coverages: Floats) -> list[CoveragePoint]:
    """Accuracy of the most confident records, for each share of records kept (El-Yaniv & Wiener 2010, JMLR 11).

    Records that tie with the threshold's score are all kept, so that the threshold can be applied directly;
    a coverage that ties with an earlier one is left out.
    """
    order = np.argsort(-score, kind="stable")
    descending, hits = score[order], np.cumsum(right[order])
    points: list[CoveragePoint] = []
    for coverage in coverages:
        wanted = max(1, min(len(score), round(float(coverage) * len(score))))
        threshold = descending[wanted - 1]
        num = int(np.searchsorted(-descending, -threshold, side="right"))
        if not points or points[-1].threshold != float(threshold):
            points.append(CoveragePoint(float(threshold), num / len(score), Estimate.share(int(hits[num - 1]), num)))
    return points
