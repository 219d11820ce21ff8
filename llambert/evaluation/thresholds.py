"""Score thresholds from which on a wanted share of the labels is right, tested so that the promise holds."""

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.intervals import CONFIDENCE_LEVEL

FALSE_PROMISES = (1 - CONFIDENCE_LEVEL) / 2
"""How often, at most, the records kept by a threshold are right less often than wanted: 2.5 %."""

# The first set that is tested: the smallest that passes with so many wrong labels, but at least this share of the gold.
# Each later one is larger by the growth. On 6 accuracy curves, 150 to 20,000 gold records and 5 wanted accuracies this
# keeps 70 % of the records that the best threshold keeps, on average; a search that starts at the smallest set that can
# pass at all keeps 48 %, because one wrong label in it is the end (`tests/benchmarks/bench_coverage.py`).
_WRONG_IN_FIRST = 2
_FIRST_SHARE = 0.1
_GROWTH = 0.02
_MIN_DECIMALS = 3


@dataclass(frozen=True)
class ScoreThreshold:
    """Keep the records whose score is at least ``threshold``, exactly as printed by ``str``."""

    threshold: float
    num_kept: int
    """Of all labelled records."""
    coverage: float
    """Their share of all labelled records."""
    num_gold: int
    """Gold records kept by it, which the test rests on."""
    accuracy: float
    """Share of these that is right."""


def score_threshold(
    score: NDArray[np.float32], right: NDArray[np.bool_], all_scores: NDArray[np.float32], wanted: float
) -> ScoreThreshold | None:
    """The threshold that keeps most records of which at least the share ``wanted`` is right; None if none is proven.

    ``score`` and ``right`` are those of the gold records, a random sample of independent texts; ``all_scores`` those
    of every labelled record, sorted from low to high. Sets of the highest scores are tested in a fixed order, from
    small to large, with the exact one-sided binomial test (Clopper & Pearson 1934, Biometrika 26:404) at 2.5 %. The
    first that fails ends the search, so that many thresholds are tried at the risk of one: a fixed sequence (Maurer,
    Hothorn & Lehmacher 1995), as in Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052). The order depends on
    the number of gold records, their scores and ``wanted``, never on ``right``. Equal scores stay together.

    A set is what is above the next lower gold score: given the score of one gold record, those above it are a random
    sample of all records above it, but those down to and including it are not.
    """
    order = np.argsort(-score, kind="stable")
    descending, num_wrong = score[order], np.cumsum(~right[order])
    ends = np.flatnonzero(np.append(descending[1:] != descending[:-1], True)) + 1
    sizes = np.unique(ends[np.searchsorted(ends, _tested_sizes(len(score), wanted))])
    has_passed = stats.binom.cdf(num_wrong[sizes - 1], sizes, 1 - wanted) <= FALSE_PROMISES
    num_passed = len(sizes) if has_passed.all() else int(np.argmin(has_passed))
    if num_passed == 0:
        return None
    size = int(sizes[num_passed - 1])
    first = int(np.searchsorted(all_scores, descending[size], side="right")) if size < len(score) else 0
    num_kept = len(all_scores) - first
    return ScoreThreshold(
        threshold=_shortest_between(all_scores[first - 1] if first else None, all_scores[first]),
        num_kept=num_kept,
        coverage=num_kept / len(all_scores),
        num_gold=size,
        accuracy=float(1 - num_wrong[size - 1] / size),
    )


def _tested_sizes(num: int, wanted: float) -> NDArray[np.int64]:
    """Numbers of records in the sets that are tested, from small to ``num``."""
    candidates = np.arange(_WRONG_IN_FIRST + 1, int(10 / (1 - wanted)) + 10)
    passes = stats.binom.cdf(_WRONG_IN_FIRST, candidates, 1 - wanted) <= FALSE_PROMISES
    size = min(num, max(int(candidates[np.argmax(passes)]), round(_FIRST_SHARE * num)))
    sizes = [size]
    while size < num:
        size = min(num, size + max(1, round(_GROWTH * size)))
        sizes.append(size)
    return np.array(sizes)


def _shortest_between(below: np.float32 | None, lowest: np.float32) -> float:
    """The shortest decimal above ``below`` and not above ``lowest``, both as it is and rounded to float32.

    Whether scores are compared with it in single or in double precision, the same are at least as high.
    """
    for num_decimals in count(_MIN_DECIMALS):
        rounded = Decimal(float(lowest)).quantize(Decimal(1).scaleb(-num_decimals), ROUND_FLOOR)
        if below is None or min(float(rounded), float(np.float32(rounded))) > below:
            return float(rounded)
    raise AssertionError("a float32 has a finite number of decimals")
