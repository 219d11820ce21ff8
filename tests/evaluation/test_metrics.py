import numpy as np
import pytest

from llambert.evaluation.metrics import (
    Estimate,
    accuracy,
    class_figures,
    confusion,
    independent_difference,
    paired_difference,
    risk_coverage,
)

NUM_CORPORA = 500


def _covered(estimates: list[Estimate], truths: np.ndarray) -> float:
    """Share of the intervals that hold their truth."""
    bounds = np.array([estimate.bounds for estimate in estimates])
    return float(((bounds[:, 0] <= truths) & (truths <= bounds[:, 1])).mean())


def test_wilson_interval_of_a_published_example():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263 by the score method.
    estimate = Estimate.share(81, 263)
    assert estimate.value == pytest.approx(0.3080, abs=5e-5)
    assert estimate.bounds == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_difference_of_independent_shares_of_a_published_example():
    # Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10: 56/70 - 48/80.
    difference = independent_difference(Estimate.share(56, 70), Estimate.share(48, 80))
    assert difference.value == pytest.approx(0.2)
    assert difference.bounds == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_paired_difference_counts_discordant_records_alone():
    first = np.array([True] * 60 + [True] * 12 + [False] * 5 + [False] * 23)
    second = np.array([True] * 60 + [False] * 12 + [True] * 5 + [False] * 23)
    difference = paired_difference(first, second)
    assert difference.value == pytest.approx(0.07)
    # Bonett & Price 2012, formula 7, by hand: (13 - 6) / 102 and sqrt((13/102 + 6/102 - (7/102)^2) / 102).
    assert difference.bounds == pytest.approx((0.0686 - 0.0827, 0.0686 + 0.0827), abs=1e-4)


@pytest.mark.parametrize("true_accuracy", [0.6, 0.78, 0.95])
def test_accuracy_intervals_cover_the_truth_in_93_to_97_percent_of_500_corpora(true_accuracy):
    rng = np.random.default_rng(1)
    right = rng.random((NUM_CORPORA, 800)) < true_accuracy
    gold = np.zeros(800, int)
    estimates = [accuracy(gold, (~row).astype(int)) for row in right]
    assert 0.93 <= _covered(estimates, np.full(NUM_CORPORA, true_accuracy)) <= 0.97


def test_difference_intervals_cover_the_truth_in_93_to_97_percent_of_500_corpora():
    rng = np.random.default_rng(3)
    first, second = rng.binomial(1_500, 0.79, NUM_CORPORA), rng.binomial(600, 0.77, NUM_CORPORA)
    estimates = [
        independent_difference(Estimate.share(int(a), 1_500), Estimate.share(int(b), 600))
        for a, b in zip(first, second, strict=True)
    ]
    assert 0.93 <= _covered(estimates, np.full(NUM_CORPORA, 0.02)) <= 0.97


def test_class_figures_from_a_confusion_worked_out_by_hand():
    gold = np.array([0] * 8 + [1] * 4)
    given_codes = np.array([0] * 6 + [1] * 2 + [0] * 1 + [1] * 3)
    matrix = confusion(gold, given_codes, 3)
    assert matrix.tolist() == [[6, 2, 0], [1, 3, 0], [0, 0, 0]]
    first, _, absent = class_figures(matrix, ["a", "b", "c"])
    assert first.precision is not None
    assert first.recall is not None
    assert first.precision.value == pytest.approx(6 / 7)
    assert first.recall.value == pytest.approx(6 / 8)
    assert first.f1 == pytest.approx(12 / 15)
    assert (absent.precision, absent.recall, absent.f1) == (None, None, 0.0)


def test_risk_coverage_keeps_ties_together():
    score = np.array([0.9, 0.8, 0.8, 0.8, 0.6])
    right = np.array([True, True, False, True, False])
    points = risk_coverage(score, right, np.array([1.0, 0.6, 0.4, 0.2]))
    # 40 % and 60 % both end among the three records at 0.8: one threshold, all of them kept.
    assert [(p.threshold, p.coverage) for p in points] == [(0.6, 1.0), (0.8, 0.8), (0.9, 0.2)]
    assert [p.accuracy.value for p in points] == pytest.approx([3 / 5, 3 / 4, 1.0])
