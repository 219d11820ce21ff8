"""How much more annotations would help: a classifier's error as a function of the number of labels it learned from.

The error is modelled as ``floor + scale * n ** -exponent`` (Hestness et al. 2017, arXiv 1712.00409).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

# Three or four points cannot distinguish a slow decay from a fast one with a floor: each resample chooses an exponent,
# so that the interval reflects this uncertainty.
_EXPONENTS = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
_NUM_RESAMPLES = 400


@dataclass(frozen=True)
class PowerLaw:
    """``floor + scale * n ** -exponent``."""

    floor: float
    scale: float
    exponent: float

    def error(self, num: float) -> float:
        """The share of wrong labels after learning from ``num`` labels."""
        return self.floor + self.scale * num**-self.exponent

    def doubling_gain(self, num: float) -> float:
        """By how much the error falls from ``num`` labels to twice as many."""
        return self.error(num) - self.error(2 * num)


@dataclass(frozen=True)
class Advice:
    """How many records to annotate, with a 95 % interval; None: more than there are."""

    num: int | None
    low: int | None
    high: int | None


def fit(sizes: NDArray[np.integer], errors: NDArray[np.floating]) -> PowerLaw:
    """Least squares with non-negative floor and scale; the best of a few exponents."""
    fits = []
    for exponent in _EXPONENTS:
        columns = np.stack([np.ones(len(sizes)), sizes.astype(float) ** -exponent], axis=1)
        (floor, scale), residual = nnls(columns, errors)
        fits.append((round(residual, 12), PowerLaw(float(floor), float(scale), exponent)))
    return min(fits, key=lambda fit: fit[0])[1]


def advise(
    sizes: NDArray[np.integer], wrong: NDArray[np.bool_], wanted_gain: float, limit: int, seed: int = 0
) -> Advice:
    """The fewest annotations, doubling from the smallest size, after which another doubling gains less than wanted.

    ``wrong``, shape (sizes, records): whether a classifier that learned from that many labels was wrong about each
    record. Records are resampled (bootstrap) jointly for all sizes, whose errors are paired. ``limit``: maximum
    number of annotations.
    """
    assert 0 < wanted_gain < 1, f"a wanted gain of {wanted_gain} is no share"
    random = np.random.default_rng(seed)
    num_records = wrong.shape[1]
    found = []
    for _ in range(_NUM_RESAMPLES):
        rows = random.integers(0, num_records, num_records)
        found.append(_annotations_needed(fit(sizes, wrong[:, rows].mean(axis=1)), int(sizes[0]), wanted_gain, limit))
    ordered = sorted(found, key=lambda num: limit + 1 if num is None else num)
    low, middle, high = (ordered[round(q * (_NUM_RESAMPLES - 1))] for q in (0.025, 0.5, 0.975))
    return Advice(middle, low, high)


def _annotations_needed(decay: PowerLaw, smallest: int, wanted_gain: float, limit: int) -> int | None:
    num = smallest
    while decay.doubling_gain(num) >= wanted_gain:
        num *= 2
        if num > limit:
            return None
    return num
