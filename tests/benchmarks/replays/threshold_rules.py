"""Rules that choose a threshold from one uniform sample of the undecided records."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.guarantee import Promise, certify
from tests.benchmarks.bench_guarantee import most_by_rule, share_of_indicator
from tests.benchmarks.replays.undecided import Undecided

Rule = Callable[[Undecided, NDArray[np.int64], Promise], int]
"""Undecided records, the places of those sampled, the promise -> how many records keep their label, the first ones."""


def certified(records: Undecided, sampled: NDArray[np.int64], promise: Promise) -> int:
    found = certify(records.population, records.score[sampled], records.wrong[sampled], promise)
    return records.num_kept(found.threshold)


def union(records: Undecided, sampled: NDArray[np.int64], promise: Promise) -> int:
    """Exact binomial intervals at a hundred thresholds, each at a hundredth of the level."""
    return _by_indicator("union", records, sampled, promise)


def hoeffding(records: Undecided, sampled: NDArray[np.int64], promise: Promise) -> int:
    """Hoeffding's inequality at a hundred thresholds, each at a hundredth of the level."""
    return _by_indicator("hoeffding", records, sampled, promise)


RULES: dict[str, Rule] = {"ours": certified, "union": union, "Hoeffding": hoeffding}


def _by_indicator(rule: str, records: Undecided, sampled: NDArray[np.int64], promise: Promise) -> int:
    """The lowest of the thresholds down to which all pass."""
    if (target := records.target_of(promise)) <= 0:
        return len(records.score)
    grid, num_wrong = share_of_indicator(records.score[sampled], records.wrong[sampled])
    passed = int((num_wrong <= most_by_rule(rule, len(sampled), round(target, 9))).sum())
    return records.num_kept(float(grid[passed - 1])) if passed else 0
