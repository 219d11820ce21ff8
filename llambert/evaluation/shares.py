"""The share of the corpus that each category has, corrected for the classifier's errors by gold records.

The gold records are taken to be a uniform random sample of the corpus' records. Two facts are used about a category:
how many records are labelled as it and how many as another (known for the whole corpus), and which part of either
belongs to it (estimated from gold). This is post-stratification by the label (Cochran 1977, Sampling Techniques, ch.
5A), or stratified prediction-powered inference (Fisch et al. 2024, arXiv 2406.04291).

**Copies.** A share is of all records, copies included, but the copies of one text are one observation. A gold label
counts for each of its text's copies, so these are known; it speaks for the records of other texts once, with the weight
that the Horvitz-Thompson estimator (1952, JASA 47:663) leaves for them: a text with so many copies that a sample could
hardly have missed it stands for no other. If every copy of each gold text has gold, the texts were sampled, not the
records: then a text stands for others with as many copies.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llambert.evaluation.metrics import Codes, Estimate, Floats
from llambert.intervals import Z

# Ends of the search for the multiplier of `_lower_score_bound`, as logarithms; the steps take it below rounding error.
_LOG_MULTIPLIER = (0.0, 32.0)
_NUM_HALVINGS = 48
# The sample size of a stratum without doubt.
_CERTAIN = 1e12
# A count this close to a whole number is that number.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class _Strata:
    """Sums of weights of gold records; arrays of shape (2, categories): labelled as the category, or as another."""

    hits: Floats
    """Of those that are of the category."""
    total: Floats
    by_category: Floats
    """Of all records of the category."""

    @classmethod
    def of(cls, gold: Codes, predicted: Codes, weights: Floats, num_categories: int) -> "_Strata":
        cells = gold.astype(np.int64) * num_categories + predicted
        table = np.bincount(cells, weights, num_categories**2).reshape(num_categories, num_categories)
        by_category = table.sum(axis=1)
        return cls(_both(table.diagonal(), by_category), _both(table.sum(axis=0), table.sum()), by_category)


def corrected_shares(
    gold: Codes, predicted: Codes, num_labelled: NDArray[np.integer], text: Codes, num_copies: NDArray[np.integer]
) -> list[Estimate]:
    """The share of each category, with its 95 % interval; the shares sum to one, each within its interval.

    ``gold``, ``predicted``, ``text`` (equal codes are copies of one text) and ``num_copies`` (how many records of the
    corpus have the text) say this of each gold record; ``num_labelled`` is the number of records of the whole corpus
    labelled as each category, the gold ones included. ``num`` of an estimate is the number of distinct gold texts.
    """
    num_all, num_categories = int(num_labelled.sum()), len(num_labelled)
    assert 0 < len(gold) <= num_all, f"{len(gold)} gold records of {num_all}"
    _, place, counts = np.unique(text, return_inverse=True, return_counts=True)
    num_gold_copies = counts[place]
    # Weights of the texts, for the records of other texts.
    if (num_gold_copies == num_copies).all():  # texts were sampled, each with all of its copies
        weights = num_copies.astype(np.float64)
    else:
        is_missed = (1 - len(gold) / num_all) ** num_copies  # by a sample of records, each copy of the text
        weights = num_copies * is_missed / (1 - is_missed)

    known = _Strata.of(gold, predicted, num_copies / num_gold_copies, num_categories)
    others = _Strata.of(gold, predicted, weights / num_gold_copies, num_categories)
    squares = np.bincount(predicted, weights**2 / num_gold_copies, num_categories)
    num = _ratio(others.total**2, _both(squares, squares.sum()))  # Kish's effective sample size

    unknown = np.maximum(_both(num_labelled, num_labelled.sum()) - known.total, 0.0)
    num_unknown = max(num_all - known.by_category.sum(), 0.0)
    copies = np.bincount(predicted, weights / num_gold_copies * num_copies, num_categories)
    records_per_text = _ratio(_both(copies, copies.sum()), others.total, 1.0)
    # A stratum without gold is taken to be like the others.
    shares = _ratio(others.hits, others.total, _ratio(others.by_category, others.by_category.sum()))
    expected = (unknown * shares).sum(axis=0)
    value = known.by_category + num_unknown * _ratio(expected, expected.sum())

    # The sample that the unknown records are like; what is known beyond it adds to each share, and to no doubt.
    sampled = np.minimum(known.total, num * records_per_text)
    beyond = (known.by_category - (sampled * shares).sum(axis=0)) / num_all
    low, high = _interval(sampled / num_all, unknown / num_all, unknown / records_per_text, shares, num) + beyond
    num_hits = np.bincount(gold, minlength=num_categories)
    _, none = Estimate.share(0, len(counts)).bounds
    high = np.where(num_hits == 0, np.maximum(high, none), high)
    low = np.where(num_hits == len(gold), np.minimum(low, 1 - none), low)
    low = np.maximum(np.floor(low * num_all + _ROUNDING), known.by_category)
    high = np.minimum(np.ceil(high * num_all - _ROUNDING), known.by_category + num_unknown)
    bounds = np.stack([value, np.minimum(low, value), np.maximum(high, value)], axis=1) / num_all
    rows = np.clip(bounds, 0.0, 1.0).tolist()
    return [Estimate(share, lowest, highest, len(counts)) for share, lowest, highest in rows]


def _interval(sampled: Floats, unknown: Floats, num_texts: Floats, shares: Floats, num: Floats) -> Floats:
    """Lower and upper ends of Wilson's score interval for the part of the corpus that is of a category.

    By stratum: the parts of the corpus that are ``sampled`` and ``unknown``, in how many texts the latter are, and the
    ``shares`` of either that are of the category, estimated from ``num`` observations.

    It holds every value that a score test with the variance under that value does not reject (Miettinen & Nurminen
    1985, Statistics in Medicine 4:213; Martín Andrés et al. 2011, Statistical Methods in Medical Research 20:369), with
    the finite population correction of each stratum. Where hits are few, Wilson's interval covers 84 % only (Brown, Cai
    & DasGupta 2001, Statistical Science 16:101). So half a hit is left out of up to six, and three divided by the hits
    out of more; that, and bounds rounded outwards to whole records, cover at least 93 %. Simulated coverage and widths
    of this and of other intervals: ``tests/benchmarks/bench_coverage.py``.
    """
    parts = sampled + unknown
    with np.errstate(divide="ignore", invalid="ignore"):  # strata that are known, or not sampled
        corrected = (parts / unknown) ** 2 / (1 / num + 1 / num_texts)
    corrected = np.where(unknown > 0, np.minimum(corrected, _CERTAIN), _CERTAIN)
    hits = shares * _without_part_of_a_hit((shares * num).sum(axis=0))
    others = (1 - shares) * _without_part_of_a_hit(((1 - shares) * num).sum(axis=0))
    both_ends = _lower_score_bound(np.hstack([hits, others]), np.hstack([corrected] * 2), np.hstack([parts] * 2))
    low, low_of_others = np.split(both_ends, 2)
    return np.stack([low, parts.sum(axis=0) - low_of_others])


def _without_part_of_a_hit(hits: Floats) -> Floats:
    """The part of so many hits that is left without half a hit, or three divided by the hits if that is less."""
    return np.maximum(1 - np.minimum(_ratio(0.5, hits), _ratio(3.0, hits**2)), 0.0)


def _lower_score_bound(shares: Floats, num: Floats, parts: Floats) -> Floats:
    """The lowest value of ``sum(parts * shares)`` along axis 0 that the score test does not reject.

    Given that sum, the most likely shares satisfy ``shares - p = multiplier * parts * p * (1 - p) / num``, a quadratic
    equation for each, and the test statistic is ``multiplier ** 2 * variance``: the multiplier at which it reaches
    ``Z ** 2`` is searched for. A stratum without a sample takes its least share, 0.
    """
    lower, upper = (np.full(shares.shape[1], end) for end in _LOG_MULTIPLIER)
    for _ in range(_NUM_HALVINGS):
        middle = (lower + upper) / 2
        pull = np.exp(middle) * parts
        root = np.sqrt(np.maximum((num + pull) ** 2 - 4 * pull * num * shares, 0.0))
        p = _ratio(2 * num * shares, num + pull + root)
        variance = _ratio(parts**2 * p * (1 - p), num).sum(axis=0)
        is_beyond = np.exp(2 * middle) * variance > Z**2
        lower, upper = np.where(is_beyond, lower, middle), np.where(is_beyond, middle, upper)
    return (parts * p).sum(axis=0)


def _both(of_category: NDArray, of_all: NDArray) -> Floats:
    """Of the records labelled as each category, and of those labelled as another."""
    return np.stack([of_category, of_all - of_category]).astype(np.float64)


def _ratio(numerator: Floats | float, denominator: Floats, otherwise: Floats | float = 0.0) -> Floats:
    """``otherwise`` where the denominator is zero."""
    is_valid = denominator > 0
    return np.where(is_valid, numerator / np.where(is_valid, denominator, 1.0), otherwise)
