"""How many records the oracle must decide before a guarantee can be given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.evaluation.guarantee import Population, Promise, max_wrong, tail_probability

POWER = 0.8
"""The usual probability with which a planned study succeeds (Cohen 1988, Statistical Power Analysis, section 2.4)."""

# With 1.0 a pilot rules out too much by chance, and with 1.5 it saves half as much.
_FLOOR_MARGIN = 1.2
# A floor saves about the share of the questions that it rules out. One that saves less is by chance too high as well.
_MIN_RULED_OUT = 0.2


@dataclass(frozen=True)
class PlannedSample:
    """The sample with which a threshold passes with the wanted probability."""

    share_kept: float
    """Of the undecided records, those with a score of at least ``threshold``."""
    threshold: float
    share_wrong: float
    """Of the undecided records, those that are kept and wrong, as estimated."""
    num_sampled: int | None
    """None: more wrong records than the promise allows, so that the threshold should not pass."""


def smallest_sample(population: Population, promise: Promise, num_wrong: int = 0) -> int | None:
    """The smallest sample in which ``num_wrong`` kept wrong records pass the test; None if there is none."""
    low, high = 0, population.num_undecided
    if num_wrong > high or max_wrong(population, high, promise) < num_wrong:
        return None
    while low < high:
        middle = (low + high) // 2
        passes = num_wrong <= middle and tail_probability(population, middle, num_wrong, promise) <= promise.level
        low, high = (low, middle) if passes else (middle + 1, high)
    return low


def planned_samples(
    population: Population,
    score: NDArray[np.float32],
    is_wrong: NDArray[np.bool_],
    promise: Promise,
    shares_kept: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
    power: float = POWER,
) -> list[PlannedSample]:
    """For each share of the undecided records: the sample with which keeping it passes with probability ``power``.

    ``score`` and ``is_wrong``, shape (n,), are those of a sample as in ``certify``, or of a pilot. The share of wrong
    records is estimated as ``(k + 1/2) / (n + 1)``, the mean under Jeffreys' prior, so that a pilot without wrong
    records promises no miracle. The certification sample has to be drawn anew: one that is enlarged until it passes
    breaks the promise too often.
    """
    assert len(score) > 0, "no sample to plan from"
    order = np.argsort(-score, kind="stable")
    descending, num_wrong = score[order], np.cumsum(is_wrong[order])
    planned = []
    for share in shares_kept:
        threshold = descending[max(round(share * len(score)), 1) - 1]
        size = int(np.searchsorted(-descending, -threshold, side="right"))
        share_wrong = (int(num_wrong[size - 1]) + 0.5) / (len(score) + 1)
        num_sampled = _size_with_power(population, promise, round(share_wrong * population.num_undecided), power)
        planned.append(PlannedSample(size / len(score), float(threshold), share_wrong, num_sampled))
    return planned


def sampling_floor(
    population: Population, score: NDArray[np.float32], is_wrong: NDArray[np.bool_], promise: Promise
) -> float:
    """The lowest score that is worth a question: ``Population.floor`` of a certification sample to come.

    Records that are going to be deferred anyway tell nothing about those that are kept. ``population`` has the floor 0;
    ``score`` and ``is_wrong`` are a pilot's, of other records than the certification sample's, such as the oracle's
    answers that training held out. The floor is the score from which on the pilot shows 1.2 times as many wrong records
    as are allowed; it is 0 if less than a fifth is below. Whatever the pilot, the certificate keeps its promise.

    Simulated with 1,000 answers, a floor saves a third of the questions at equal deferral, in the median of the cases
    where a quarter of the records or more has to be deferred: up to 62 %, and nothing where few distinct scores make
    the steps coarse (``tests/benchmarks/bench_certification_sampling.py``). A budget has to pay for all records below.
    """
    assert population.floor == 0, "a floor is chosen once"
    wrong_scores = np.sort(score[is_wrong])[::-1]
    if population.num_undecided == 0:
        return 0.0
    most = int(_FLOOR_MARGIN * population.num_allowed(promise.target) / population.num_undecided * len(score))
    if most >= len(wrong_scores) or (score < wrong_scores[most]).mean() < _MIN_RULED_OUT:
        return 0.0
    return float(wrong_scores[most])


def _size_with_power(population: Population, promise: Promise, num_wrong: int, power: float) -> int | None:
    """The smallest sample, to a step of the exact test, that passes with ``power`` if so many records are wrong.

    The number of wrong records that the sample may show is doubled until its smallest sample has the power, then halved
    in. As the test is discrete, the power is not quite monotone in it.
    """
    if num_wrong > population.num_allowed(promise.target) and not promise.answers_replace:
        return None

    def suffices(num_shown: int) -> bool:
        size = smallest_sample(population, promise, num_shown)
        if size is None:
            return True  # of all records, which leaves nothing to chance
        return bool(stats.hypergeom.cdf(num_shown, population.num_undecided, num_wrong, size) >= power)

    low, high = -1, 0
    while not suffices(high):
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    size = smallest_sample(population, promise, high)
    return population.num_undecided if size is None else size
