"""Which labels of the classifier may be kept, so that a stated share of all final labels is the oracle's.

The oracle (an annotator, or people) decides a uniform random sample of the records that it has not decided yet. From it
follows the lowest score from which on the classifier's labels are kept; records with lower scores are deferred to the
oracle and then right by definition. Right means: the final label is the oracle's; an answer without a label is a
disagreement. Records are counted, not texts: each copy of a text is a record, and a text's one decision holds for each
of its sampled records. Nothing else is assumed: neither that scores are calibrated, nor that lower ones err more.

**The test.** Of ``R`` undecided records ``K(t)`` have a score of at least ``t`` and a wrong label; ``W`` may be wrong
(``Population.num_allowed``). A sample of ``n`` records that shows ``k(t)`` of them rejects ``K(t) > W`` at level ``a``
if ``P(X <= k(t)) <= a`` for a hypergeometric ``X``: ``n`` draws without replacement from ``R`` records of which
``W + 1`` are wrong (the exact test of Clopper & Pearson 1934, Biometrika 26:404, for a finite population: Buonaccorsi
1987, JASA 82:1162). For large ``R`` that is the binomial test.

**Many thresholds at the risk of one.** The hypotheses are tested from the highest threshold down, each at the full
level, until one is not rejected: a fixed sequence, which needs no correction for their number (Maurer, Hothorn &
Lehmacher 1995; Westfall & Krishen 2001, J. Stat. Plan. Inference 99:25; Learn then Test, Angelopoulos et al. 2021,
arXiv 2110.01052). ``K(t)`` only grows as ``t`` falls. So there is one highest threshold whose hypothesis is true, no
sample changes which, and a false certificate has to pass the test there: probability ``a`` at most. A search that
continues after a failure has more than this one chance to err. Here ``k(t)`` only grows as well and each test allows
the same number ``c`` of wrong records, so whatever follows a failure fails too, and all thresholds can be tested, not
only sampled scores: the certificate keeps every score above that of the sampled wrong record ``c + 1``, counted from
the highest score. Equal scores stay together.

**Answers that replace labels.** The sampled records can take the oracle's answers, which leaves ``K(t) - k(t)`` wrong
records. Then ``k`` wrong ones pass if ``P(X <= k) <= a`` with ``W + 1 + k`` instead of ``W + 1``. Proof: if ``k``
passes, so does ``k - 1``, since one more wrong record adds at most one to ``X``. Go down the scores to the record at
which ``W + 1`` wrong ones are not sampled. A false certificate needs at most ``c`` sampled ones before it: at most
``c`` among the first ``W + 1 + c`` wrong records of the population, whatever their scores. That has probability ``a``
at most by the definition of ``c``; populations with fewer wrong records follow with their number instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llambert.intervals import CONFIDENCE_LEVEL

# A softmax in single precision reaches it: no threshold is above.
_HIGHEST_SCORE = np.float32(1)


@dataclass(frozen=True)
class Promise:
    """With probability ``confidence``, at least the share ``target`` of all records has the oracle's label."""

    target: float
    confidence: float = CONFIDENCE_LEVEL
    answers_replace: bool = False
    """The sampled records take the oracle's answers, also where these are unusable and count as deferred."""

    def __post_init__(self) -> None:
        assert 0 < self.target < 1, f"target {self.target} is not between 0 and 1"
        assert 0 < self.confidence < 1, f"confidence {self.confidence} is not between 0 and 1"

    @property
    def level(self) -> float:
        """How often, at most, the promise may be broken."""
        return float(1 - Decimal(str(self.confidence)))


@dataclass(frozen=True)
class Population:
    """The records that a promise is about, copies included."""

    num_records: int
    num_undecided: int
    """Records that the sample was drawn from: those whose label is not the oracle's already, with a score of at least
    ``floor``. All other records are right: the oracle has decided them, or is going to."""
    floor: float = 0.0
    """Lowest score that could be sampled, chosen without a look at the sample. Records below are always deferred."""

    def __post_init__(self) -> None:
        assert 0 <= self.num_undecided <= self.num_records, f"{self.num_undecided} of {self.num_records} records"

    def num_allowed(self, target: float) -> int:
        """The largest number of wrong records with which at least the share ``target`` is right."""
        num_right = (Decimal(str(target)) * self.num_records).to_integral_value(ROUND_CEILING)
        return self.num_records - int(num_right)


@dataclass(frozen=True)
class Certificate:
    """What may be kept: the undecided records with a score of at least ``threshold``."""

    threshold: float | None
    """A float32 number, so that comparisons agree in single and double precision; None: defer every record."""
    share_bound: float
    """Lower confidence bound on the share of right final labels, valid at the promise's confidence."""
    num_sampled: int
    num_kept: int
    """Sampled records that keep their label."""
    num_wrong: int
    """Of these, those whose label is not the oracle's."""
    max_wrong: int
    """The most wrong records among the kept that pass; -1: the sample is too small for any threshold."""


def certify(
    population: Population, score: NDArray[np.float32], is_wrong: NDArray[np.bool_], promise: Promise
) -> Certificate:
    """The lowest threshold that keeps the promise.

    ``score`` (the classifier's, from 0 to 1) and ``is_wrong`` (its label is not the oracle's) are those of the sampled
    records, shape (n,). Where all of the population may be kept, ``share_bound`` is the exact bound at the lowest
    threshold. Elsewhere it is the target, in whole records: the last step of the sequence bounds the deferred records
    too, and nothing better is valid for a threshold that the sample chose (Hsu & Berger 1999, JASA 94:468).
    """
    certificate = _certificate(population, score, is_wrong, promise, promise.level)
    if certificate.threshold != population.floor:
        return certificate
    remaining = _remaining(population, len(score), certificate.num_wrong, promise, promise.level)
    return replace(certificate, share_bound=_share_right(population, remaining))


def certify_categories(
    populations: Sequence[Population],
    category: NDArray[np.integer],
    score: NDArray[np.float32],
    is_wrong: NDArray[np.bool_],
    promise: Promise,
) -> list[Certificate]:
    """One certificate for each predicted category; all of them keep the promise at once.

    ``populations`` are the records that the classifier labels as each category, ``category`` (n,) the predicted codes
    of the sample. Given its number, the sample of a category is uniform. The level is split by Holm's method (1979,
    Scand. J. Statist. 6:65): each category has an equal part of it. One that may be kept as a whole has nothing left to
    test and leaves its part to the others, which divide the level anew (Bretz et al. 2009, Statistics in Medicine
    28:586). So no threshold is higher than with the union bound. ``share_bound`` is the target in whole records: exact
    bounds of complete categories would need a part of the level for themselves.
    """
    open_codes = set(range(len(populations)))
    certificates: dict[int, Certificate] = {}
    while open_codes:
        level = promise.level / len(open_codes)
        for code in open_codes:
            chosen = category == code
            certificates[code] = _certificate(populations[code], score[chosen], is_wrong[chosen], promise, level)
        complete = {code for code in open_codes if certificates[code].threshold == populations[code].floor}
        if not complete:
            break
        open_codes -= complete
    return [certificates[code] for code in range(len(populations))]


def achieved_share(
    population: Population,
    score: NDArray[np.float32],
    is_wrong: NDArray[np.bool_],
    promise: Promise,
    threshold: float,
    num_thresholds: int = 1,
) -> float:
    """Lower confidence bound on the share of right labels if scores of at least ``threshold`` keep theirs.

    For an escalation that a budget stops before it reaches the certificate's threshold: ``threshold`` is the lowest
    score of which a record was not escalated. It may depend on scores, budget and certificate, not otherwise on
    ``is_wrong``. If it is chosen among several by their bounds, ``num_thresholds`` is their number (Bonferroni).

    Exact: the largest ``K`` that the hypergeometric test does not reject, and ``num_allowed`` where that is larger. The
    latter makes the bound valid together with the certificate's: "the target, if the budget pays for it, otherwise
    this" errs only where the one test at ``threshold``, or at the highest false threshold above it, errs.
    """
    assert threshold >= population.floor, f"nothing below {population.floor} was sampled; threshold {threshold}"
    num_wrong = int(is_wrong[score >= threshold].sum())
    level = promise.level / num_thresholds
    remaining = _remaining(population, len(score), num_wrong, promise, level)
    return _share_right(population, max(remaining, _num_allowed(population, promise)))


@lru_cache(maxsize=4096)
def max_wrong(population: Population, num_sampled: int, promise: Promise, level: float | None = None) -> int:
    """The most wrong records among ``num_sampled`` that pass at ``level`` (the promise's by default); -1: not even 0.

    Neither scores nor answers decide it.
    """
    assert num_sampled <= population.num_undecided, f"{num_sampled} sampled of {population.num_undecided}"
    level = promise.level if level is None else level
    low, high = -1, num_sampled
    while low < high:
        middle = (low + high + 1) // 2
        if tail_probability(population, num_sampled, middle, promise) <= level:
            low = middle
        else:
            high = middle - 1
    return low


def tail_probability(population: Population, num_sampled: int, num_wrong: int, promise: Promise) -> float:
    """Probability, at most, of no more than ``num_wrong`` wrong records in the sample if the promise is broken."""
    num_false = population.num_allowed(promise.target) + 1 + (num_wrong if promise.answers_replace else 0)
    if num_false > population.num_undecided:
        return 0.0
    return float(stats.hypergeom.cdf(num_wrong, population.num_undecided, num_false, num_sampled))


def _certificate(
    population: Population, score: NDArray[np.float32], is_wrong: NDArray[np.bool_], promise: Promise, level: float
) -> Certificate:
    assert score.dtype == np.float32, f"scores of type {score.dtype}, expected float32"
    assert score.shape == is_wrong.shape, f"{len(score)} scores, {len(is_wrong)} answers"
    most = max_wrong(population, len(score), promise, level)
    wrong_scores = np.sort(score[is_wrong])[::-1]
    threshold: float | None
    if len(wrong_scores) <= most:
        threshold = population.floor
    elif most < 0 or wrong_scores[most] >= _HIGHEST_SCORE:
        threshold = None
    else:
        threshold = float(np.nextafter(wrong_scores[most], np.float32(np.inf)))
    kept = np.zeros(len(score), bool) if threshold is None else score >= threshold
    return Certificate(
        threshold=threshold,
        share_bound=1.0 if threshold is None else _share_right(population, _num_allowed(population, promise)),
        num_sampled=len(score),
        num_kept=int(kept.sum()),
        num_wrong=int(is_wrong[kept].sum()),
        max_wrong=most,
    )


def _num_allowed(population: Population, promise: Promise) -> int:
    return min(population.num_allowed(promise.target), population.num_undecided)


@lru_cache(maxsize=4096)
def _remaining(population: Population, num_sampled: int, num_wrong: int, promise: Promise, level: float) -> int:
    """Exact upper confidence bound on the wrong final labels where ``num_wrong`` sampled records are kept and wrong."""
    low, high = num_wrong, population.num_undecided - (num_sampled - num_wrong)
    while low < high:
        middle = (low + high + 1) // 2
        if stats.hypergeom.cdf(num_wrong, population.num_undecided, middle, num_sampled) > level:
            low = middle
        else:
            high = middle - 1
    return low - num_wrong if promise.answers_replace else low


def _share_right(population: Population, num_wrong: int) -> float:
    return 1 - num_wrong / population.num_records if population.num_records else 1.0
