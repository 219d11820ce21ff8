"""Accuracy against gold labels of replayed runs, beside the classifier's and the annotator's."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.evaluation.metrics import Estimate
from tests.benchmarks.replays.replaying import Samples, promise_of
from tests.benchmarks.replays.stored_answers import SEEDS, StoredAnswers
from tests.benchmarks.replays.threshold_rules import certified
from tests.benchmarks.replays.undecided import Undecided, undecided_by_annotator, undecided_by_people

_Z = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Rightness:
    """How often a record's label is right, over trainings and replays; arrays (seeds, records with a gold label).

    ``below``: share of the replays in which the record is undecided and below the threshold.
    """

    final: NDArray[np.float64]
    below: NDArray[np.float64]


def classifier_right(stored: list[StoredAnswers]) -> NDArray[np.float64]:
    return np.array([(one.label == one.gold)[one.has_gold] for one in stored], float)


def annotator_right(stored: list[StoredAnswers]) -> NDArray[np.float64]:
    return np.array([(one.answered & (one.answer == one.gold))[one.has_gold] for one in stored], float)


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> Estimate:
    """Mean over seeds and records, both arrays (seeds, records), with its 95 % interval over records.

    The ratio estimator's linearised variance (Cochran 1977, Sampling Techniques, section 2.11): seeds share records,
    so a record's values are summed first. The trainings are taken as they are.
    """
    weights = np.ones_like(values) if weights is None else weights
    sums, sizes = (values * weights).sum(axis=0), weights.sum(axis=0)
    mean = sums.sum() / sizes.sum()
    half = _Z * np.sqrt(((sums - mean * sizes) ** 2).sum()) / sizes.sum()
    return Estimate(float(mean), float(mean - half), float(mean + half), int((sizes > 0).sum()))


def by_annotator(stored: list[StoredAnswers], target: float, num: int, draw: Samples) -> Rightness:
    """Records annotated for the training, sampled, and below the threshold take the annotator's answer."""
    final, below = [], []
    for seed, one in zip(SEEDS, stored, strict=True):
        label_right, answer_right = one.label == one.gold, one.answered & (one.answer == one.gold)
        decided, deferred = _shares_decided(undecided_by_annotator(one), len(one.label), target, num, draw, seed)
        decided[one.annotated] = 1
        final.append((decided * answer_right + (1 - decided) * label_right)[one.has_gold])
        below.append(deferred[one.has_gold])
    return Rightness(np.array(final), np.array(below))


def by_people(stored: list[StoredAnswers], target: float, num: int, draw: Samples) -> Rightness:
    """Records sampled and below the threshold take the gold label."""
    final, below = [], []
    for seed, one in zip(SEEDS, stored, strict=True):
        decided, deferred = _shares_decided(undecided_by_people(one), len(one.label), target, num, draw, seed)
        final.append((decided + (1 - decided) * (one.label == one.gold))[one.has_gold])
        below.append(deferred[one.has_gold])
    return Rightness(np.array(final), np.array(below))


def _shares_decided(
    records: Undecided, num_records: int, target: float, num: int, draw: Samples, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each record: share of replays in which the oracle decides it, and in which it is below the threshold."""
    decided, deferred = np.zeros(num_records), np.zeros(num_records)
    for sampled in draw.of(records, num, seed):
        below = records.row[certified(records, sampled, promise_of(target)) :]
        deferred[below] += 1
        decided[np.union1d(below, records.row[sampled])] += 1
    return decided / draw.per_seed, deferred / draw.per_seed


def share_escalated(stored: list[StoredAnswers], share: float) -> tuple[float, float]:
    """Agreement and accuracy of undecided records with gold if the least sure ``share`` takes the annotator's answer.

    Means over seeds.
    """
    figures = []
    for one in stored:
        rows = np.flatnonzero(~one.annotated & one.has_gold)
        rows = rows[np.argsort(one.score[rows], kind="stable")]
        kept, below = np.split(rows, [round(share * len(rows))])[::-1]
        agreeing = (one.answered & (one.answer == one.label))[kept].sum() + len(below)
        right = (one.label == one.gold)[kept].sum() + (one.answered & (one.answer == one.gold))[below].sum()
        figures.append((agreeing / len(rows), right / len(rows)))
    agreement, accuracy = np.mean(figures, axis=0)
    return float(agreement), float(accuracy)


ORACLES: dict[str, Callable[[list[StoredAnswers], float, int, Samples], Rightness]] = {
    "LLM": by_annotator,
    "people": by_people,
}
