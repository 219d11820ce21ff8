"""How much more annotations would help: a classifier's error as a function of the number of labels it learned from.

The error is modelled as ``floor + scale * n ** -exponent`` (Hestness et al. 2017, arXiv 1712.00409).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls

from llambert.intervals import CONFIDENCE_LEVEL, Z

# Three points cannot distinguish a slow decay from a fast one with a floor: every exponent that fits counts.
_EXPONENTS = np.geomspace(0.15, 1.0, 15)
_WIDE = 32
"""An interval from one number to this many times as much says nothing that helps to decide: five doublings."""


@dataclass(frozen=True)
class Advice:
    """How many records to annotate, with a 95 % interval; None: more than ``limit``, which there are.

    ``training_deviation``: standard deviation of the error from one training to another, on the same records.
    """

    num: int | None
    low: int | None
    high: int | None
    limit: int
    training_deviation: float

    @property
    def says_nothing(self) -> bool:
        """Whether the interval is too wide to decide by."""
        return self.low is not None and (self.high or self.limit) >= _WIDE * self.low


def advise(sizes: NDArray[np.integer], wrong: NDArray[np.bool_], wanted_gain: float, limit: int) -> Advice:
    """The fewest annotations, doubling from the smallest size, after which another doubling gains less than wanted.

    ``wrong``, shape (sizes, repeats, halves, records of a half), at least two repeats: whether a classifier that
    learned from that many labels was wrong about each record. Each size, repeat and half is a training of its own; the
    repeats of a half are judged by the same records. ``limit``: maximum number of annotations.

    The interval holds each number that some power law gives which fits the errors nearly as well as the best one does
    (profile likelihood). What the errors may be off by is both the choice of records, correlated between sizes, and
    the noise of training; the latter is estimated from few trainings and enters with Student's t.
    """
    assert 0 < wanted_gain < 1, f"a wanted gain of {wanted_gain} is no share"
    covariance, deviation = _noise(wrong)
    num_doublings = max(int(np.log2(max(limit / int(sizes[0]), 1))), 0)
    numbers = [int(sizes[0]) * 2**doubling for doubling in range(num_doublings + 1)]
    misfits = np.round(_misfits(sizes, wrong.mean(axis=(1, 2, 3)), covariance, wanted_gain, numbers), 6)
    possible = np.flatnonzero(misfits <= misfits.min() + Z**2)
    best, low, high = (dict(enumerate(numbers)).get(int(n)) for n in (misfits.argmin(), possible[0], possible[-1]))
    return Advice(best, low, high, limit, deviation)


def _noise(wrong: NDArray[np.bool_]) -> tuple[NDArray[np.floating], float]:
    """Covariance of the sizes' errors, and the standard deviation of a training; see ``advise``.

    Variance components of records crossed with trainings, as in ``experiments.results``: of the noise of training all
    that differs between repeats, flips of single records included; of the records only what the repeats share.
    """
    num_sizes, num_repeats, num_halves, num_each = wrong.shape
    assert num_repeats > 1, "one training tells nothing about the noise of training"
    num_records, num_trainings = num_halves * num_each, num_repeats * num_halves
    of_trainings, of_records = wrong.mean(axis=3), wrong.mean(axis=1)
    of_halves = of_records.mean(axis=2, keepdims=True)
    training_variance = of_trainings.var(axis=1, ddof=1).mean()
    flips = wrong - of_trainings[..., None] - of_records[:, None] + of_halves[:, None]
    flip_variance = (flips**2).sum(axis=(1, 2, 3)) / (num_halves * (num_repeats - 1) * (num_each - 1))
    deviations = (of_records - of_halves).reshape(num_sizes, -1)
    shared = deviations @ deviations.T / (num_records - num_halves) - np.diag(flip_variance) / num_repeats
    t = stats.t.ppf(0.5 + CONFIDENCE_LEVEL / 2, num_sizes * num_halves * (num_repeats - 1))
    trainings = max((t / Z) ** 2 * training_variance, flip_variance.mean() / num_each) / num_trainings
    # A record on top, lest errors that agree by chance pass for certain.
    covariance = shared / num_records + (trainings + num_records**-2.0) * np.eye(num_sizes)
    values, vectors = np.linalg.eigh(covariance)
    covariance = vectors * np.maximum(values, num_records**-2.0) @ vectors.T
    return covariance, float(np.sqrt(max(training_variance - flip_variance.mean() / num_each, 0.0)))


def _misfits(
    sizes: NDArray[np.integer],
    errors: NDArray[np.floating],
    covariance: NDArray[np.floating],
    wanted_gain: float,
    numbers: list[int],
) -> NDArray[np.floating]:
    """For each number, and for more than the last, the squared distance to the nearest law that it is the answer for.

    A law's doubling gain falls with every doubling, so a number is the answer for an interval of scales.
    """
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    target, ones = whitening @ errors, whitening @ np.ones(len(sizes))
    misfits = np.full(len(numbers) + 1, np.inf)
    for exponent in _EXPONENTS:
        powers = whitening @ sizes.astype(float) ** -exponent
        (_, best), _ = nnls(np.stack([ones, powers], axis=1), target)
        # At these scales the gain from a number to twice as much is the wanted one.
        bounds = wanted_gain / (np.array(numbers, float) ** -exponent * (1 - 2**-exponent))
        lowest, highest = np.append(0.0, bounds), np.append(bounds, np.inf)
        scales = np.clip(best, lowest, highest)
        floors = np.maximum((target @ ones - scales * (powers @ ones)) / (ones @ ones), 0.0)
        distances = ((target[:, None] - np.outer(ones, floors) - np.outer(powers, scales)) ** 2).sum(axis=0)
        # No error is above 1.
        misfits = np.where(lowest <= float(sizes[0]) ** exponent, np.minimum(misfits, distances), misfits)
    return misfits
