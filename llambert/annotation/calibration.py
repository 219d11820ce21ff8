"""Label probabilities and what is wrong with them: an LLM's preference for some answer words over others.

Probabilities are arrays of shape (records, categories), float64, categories in task order. Raw ones come
from the engine and sum to its belief in any answer word; normalised ones sum to 1. Every correction is
affine in the log-probabilities, so it moves the boundary between categories and keeps the order of records:

- ``batch_calibration`` divides by the mean probability of each category over the annotated records (Zhou et
  al., ICLR 2024, arXiv 2309.17249). A step towards balance, the whole way only where the preference is weak.
- ``prior_matching`` goes the whole way: corrected, the mean probabilities are the categories' shares (Liusie,
  Manakul & Gales 2023, arXiv 2309.04992). However strong the preference was, the result is the same.
- ``contextual_calibration`` divides by the probabilities of texts without content, such as "N/A" (Zhao et
  al., ICML 2021, arXiv 2102.09690).
- ``gold_calibration`` learns from records whose labels people gave (Platt 1999), for those who choose to.

The first three take all categories for equally frequent unless given the expected ``shares``; where one is
rare they would otherwise invent more of it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

Floats = NDArray[np.float64]

# What contextual calibration asks about: the texts of Zhao et al., whose mean they found better than any one's.
CONTENT_FREE_TEXTS = ("N/A", "", "[MASK]")
# Replaces a probability of zero, which no correction could raise again.
MIN_PROBABILITY = 1e-12
# Pull of the gold calibration's scale towards 1 and of its biases towards 0.
_RIDGE = 1.0
# Of perfect calibration; the standard error of their mean is then about 2 % of it.
_NUM_SIMULATIONS = 200


def normalise(raw: Floats) -> Floats:
    """Raw probabilities as shares of the answer mass; every record must have some. Zeros become ``MIN_PROBABILITY``."""
    mass = raw.sum(axis=1, keepdims=True)
    assert (np.isfinite(mass) & (mass > 0)).all(), "a record without answer mass has no label probabilities"
    floored = np.maximum(raw / mass, MIN_PROBABILITY)
    return floored / floored.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Correction:
    """Log-probabilities times ``scale`` plus one ``bias`` per category."""

    scale: float
    bias: Floats

    def apply(self, normalised: Floats) -> Floats:
        """Corrected probabilities, which sum to 1."""
        scores = self.scale * np.log(np.maximum(normalised, MIN_PROBABILITY)) + self.bias
        return normalise(np.exp(scores - scores.max(axis=1, keepdims=True)))


def no_correction(num_categories: int) -> Correction:
    """Leaves probabilities as they are."""
    return Correction(1.0, np.zeros(num_categories))


def batch_calibration(normalised: Floats, shares: Floats | None = None) -> Correction:
    """Divide by the mean probability over the records: the paper's prior, not the mean log-probability."""
    return _divide_by_prior(normalised.mean(axis=0), shares)


def contextual_calibration(content_free: Floats, shares: Floats | None = None) -> Correction:
    """Divide by the mean normalised probabilities of texts without content; the paper asks "N/A", "[MASK]", ""."""
    return _divide_by_prior(normalise(content_free).mean(axis=0), shares)


def prior_matching(normalised: Floats, shares: Floats | None = None) -> Correction:
    """The biases under which the corrected mean probabilities are ``shares`` (equal if None).

    Found by minimising the convex function whose slope is their difference. Biases are of mean zero.
    """
    logs = np.log(np.maximum(normalised, MIN_PROBABILITY))
    num_categories = logs.shape[1]
    wanted = np.full(num_categories, 1 / num_categories) if shares is None else shares

    def potential(bias: Floats) -> tuple[float, Floats]:
        scores = logs + bias
        return float(logsumexp(scores, axis=1).mean() - bias @ wanted), softmax(scores, axis=1).mean(axis=0) - wanted

    # No bias further than the smallest probability could ever matter.
    bounds = [(np.log(MIN_PROBABILITY), -np.log(MIN_PROBABILITY))] * num_categories
    found = minimize(potential, np.zeros(num_categories), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12)
    return Correction(1.0, found.x - found.x.mean())


def gold_calibration(normalised: Floats, gold: NDArray[np.int64]) -> Correction:
    """Scale and biases fitted to gold labels (category indices) by maximum likelihood with a weak ridge.

    One scale for all categories: bias-corrected temperature scaling (Alexandari et al., ICML 2020, arXiv
    1901.06852), which for two categories is Platt scaling. The ridge keeps a handful of records from being
    believed absolutely. Draw the records at random: their shares of the categories are learnt too.
    """
    assert len(normalised) == len(gold) > 0, "gold calibration needs gold labels"
    logs = np.log(np.maximum(normalised, MIN_PROBABILITY))
    one_hot = np.eye(logs.shape[1])[gold]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scale, bias = np.exp(parameters[0]), parameters[1:]
        scores = scale * logs + bias
        residual = softmax(scores, axis=1) - one_hot
        value = logsumexp(scores, axis=1).sum() - scores[one_hot == 1].sum() + _RIDGE / 2 * (parameters**2).sum()
        slope = np.concatenate([[(residual * logs).sum() * scale], residual.sum(axis=0)])
        return float(value), slope + _RIDGE * parameters

    # The scale stays within e^±3: separable gold labels would have it grow without end.
    bounds = [(-3.0, 3.0)] + [(None, None)] * logs.shape[1]
    found = minimize(loss, np.zeros(1 + logs.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    return Correction(float(np.exp(found.x[0])), found.x[1:] - found.x[1:].mean())


def _divide_by_prior(prior: Floats, shares: Floats | None) -> Correction:
    weights = (1.0 if shares is None else shares) / np.maximum(prior, MIN_PROBABILITY)
    bias = np.log(np.maximum(weights, MIN_PROBABILITY))
    return Correction(1.0, bias - bias.mean())


def labels_and_confidence(probabilities: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The most probable category of each record (its index; the first of equals) and its probability."""
    labels = probabilities.argmax(axis=1)
    return labels, probabilities[np.arange(len(labels)), labels]


# How far probabilities can be believed, given gold labels


@dataclass(frozen=True)
class ReliabilityBin:
    """Records of similar confidence: how many, how confident, how often right."""

    num_records: int
    mean_confidence: float
    accuracy: float


def reliability_bins(confidence: Floats, is_right: NDArray[np.bool_], num_bins: int = 15) -> list[ReliabilityBin]:
    """A reliability diagram in bins of equal mass, by rising confidence; no bin is empty.

    Equal mass rather than equal width: its estimate is less biased, and an LLM's confidences crowd at 1 (Nixon
    et al. 2019, arXiv 1904.01685). Records of equal confidence share a bin, so their order makes no difference.
    """
    assert len(confidence) == len(is_right) > 0, "reliability of nothing"
    order = np.argsort(confidence, kind="stable")
    rising, places = confidence[order], np.arange(len(order))
    starts = [of_bin[0] for of_bin in np.array_split(places, min(num_bins, len(order)))]
    bins = np.split(order, np.unique(np.searchsorted(rising, rising[starts]))[1:])
    return [ReliabilityBin(len(b), float(confidence[b].mean()), float(is_right[b].mean())) for b in bins]


@dataclass(frozen=True)
class CalibrationError:
    """An expected calibration error beside that of perfect calibration, which is not 0 either.

    ``if_calibrated``: the mean over simulations in which each of the same records is right with its stated
    probability; ``low`` and ``high`` hold 95 % of them.
    """

    value: float
    if_calibrated: float
    low: float
    high: float


def calibration_error(confidence: Floats, is_right: NDArray[np.bool_]) -> CalibrationError:
    """The expected calibration error, as every card and report states it; bins: ``reliability_bins``.

    Chance alone moves the accuracy of every bin off its confidence, the more so the fewer records there are, and the
    error sums these gaps without their sign: it is read beside its value under perfect calibration (consistency
    resampling: Bröcker & Smith 2007, Weather and Forecasting 22:651; Vaicenavicius et al. 2019, arXiv 1902.06977).
    """
    bins = reliability_bins(confidence, is_right)
    starts = np.cumsum([0, *(b.num_records for b in bins[:-1])])
    rising = np.sort(confidence)
    random, sums = np.random.default_rng(0), np.add.reduceat(rising, starts)
    simulated = [
        np.abs(np.add.reduceat(random.random(len(rising), np.float32) < rising, starts, dtype=np.int64) - sums).sum()
        for _ in range(_NUM_SIMULATIONS)
    ]
    low, high = np.quantile(simulated, [0.025, 0.975]) / len(rising)
    return CalibrationError(
        expected_calibration_error(bins), float(np.mean(simulated) / len(rising)), float(low), float(high)
    )


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean gap between confidence and accuracy, weighted by records (Guo et al. 2017, arXiv 1706.04599)."""
    num_records = sum(b.num_records for b in bins)
    return sum(b.num_records * abs(b.mean_confidence - b.accuracy) for b in bins) / num_records
