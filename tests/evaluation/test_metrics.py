import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambert.evaluation.metrics import (
    Estimate,
    accuracy,
    class_figures,
    confusion,
    corrected_share,
    independent_difference,
    paired_difference,
    risk_coverage,
    threshold_for_accuracy,
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


@pytest.mark.parametrize(
    ("share", "sensitivity", "specificity"), [(0.5, 0.78, 0.78), (0.2, 0.9, 0.95), (0.58, 0.7, 0.9), (0.05, 0.8, 0.99)]
)
def test_corrected_share_intervals_cover_the_truth_in_93_to_97_percent_of_500_corpora(share, sensitivity, specificity):
    rng = np.random.default_rng(2)
    num_all, num_gold = 5_000, 400
    estimates, truths, raw = [], [], []
    for _ in range(NUM_CORPORA):
        gold = rng.random(num_all) < share
        predicted = np.where(gold, rng.random(num_all) < sensitivity, rng.random(num_all) >= specificity)
        sampled = rng.permutation(num_all)[:num_gold]
        estimates.append(corrected_share(gold[sampled], predicted[sampled], float(predicted.mean()), num_all))
        truths.append(gold.mean())
        raw.append(predicted.mean())
    assert 0.93 <= _covered(estimates, np.array(truths)) <= 0.97
    # The correction is unbiased.
    assert np.mean([e.value for e in estimates]) == pytest.approx(np.mean(truths), abs=0.003)
    # The width pays for the gold sample alone: it beats the interval that ignores the predictions.
    widths = [np.diff(estimate.bounds)[0] for estimate in estimates]
    assert np.mean(widths) < np.mean([np.diff(Estimate.share(round(t * num_gold), num_gold).bounds) for t in truths])


def test_difference_intervals_cover_the_truth_in_93_to_97_percent_of_500_corpora():
    rng = np.random.default_rng(3)
    first, second = rng.binomial(1_500, 0.79, NUM_CORPORA), rng.binomial(600, 0.77, NUM_CORPORA)
    estimates = [
        independent_difference(Estimate.share(int(a), 1_500), Estimate.share(int(b), 600))
        for a, b in zip(first, second, strict=True)
    ]
    assert 0.93 <= _covered(estimates, np.full(NUM_CORPORA, 0.02)) <= 0.97


def test_corrected_share_is_exact_when_every_record_has_gold():
    gold, predicted = np.array([True] * 30 + [False] * 70), np.array([True] * 50 + [False] * 50)
    estimate = corrected_share(gold, predicted, 0.5, 100)
    assert (estimate.value, *estimate.bounds) == pytest.approx((0.3, 0.3, 0.3))


def test_a_small_gold_sample_without_errors_is_not_certainty():
    gold = np.array([True] * 10 + [False] * 20)
    low, high = corrected_share(gold, gold, 0.4, 10_000).bounds
    assert high - low > 0.05


def test_useless_predictions_do_no_harm():
    rng = np.random.default_rng(4)
    gold, predicted = rng.random(1_000) < 0.3, rng.random(1_000) < 0.9
    low, high = corrected_share(gold, predicted, 0.9, 1_000_000).bounds
    classical_low, classical_high = Estimate.share(int(gold.sum()), 1_000).bounds
    assert high - low < 1.02 * (classical_high - classical_low)


@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_a_corrected_share_stays_a_share(num, seed):
    rng = np.random.default_rng(seed)
    gold, predicted = rng.random(num) < rng.random(), rng.random(num) < rng.random()
    estimate = corrected_share(gold, predicted, float(rng.random()), num + int(rng.integers(0, 1000)))
    low, high = estimate.bounds
    assert 0 <= low <= estimate.value <= high <= 1


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


def test_threshold_for_a_wanted_accuracy_is_sure_of_it_or_says_there_is_none():
    rng = np.random.default_rng(6)
    score = rng.uniform(0.5, 1.0, 20_000)
    right = rng.random(20_000) < score
    point = threshold_for_accuracy(score, right, 0.9)
    assert point is not None
    # Records above t are right in (1 + t) / 2 of the cases: 0.9 from t = 0.8 on.
    assert 0.79 < point.threshold < 0.84
    assert point.accuracy.bounds[0] >= 0.9
    assert threshold_for_accuracy(score, rng.random(20_000) < 0.6, 0.9) is None
