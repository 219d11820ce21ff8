"""Prior correction and reliability figures against cases worked out by hand and simulated annotators."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from llambert.annotation.calibration import (
    batch_calibration,
    calibration_error,
    contextual_calibration,
    expected_calibration_error,
    gold_calibration,
    labels_and_confidence,
    normalise,
    prior_matching,
    reliability_bins,
)


def biased_annotator(num: int, share: float, bias: float, scale: float = 1.0, seed: int = 0):
    """Probabilities of (negative, positive) whose log-odds are the true ones times ``scale`` plus ``bias``."""
    draw = np.random.default_rng(seed)
    gold = (draw.random(num) < share).astype(np.int64)
    # Two unit-variance normals two apart: the true log-odds at equal shares are twice the position.
    log_odds = scale * 2 * draw.normal(np.where(gold == 1, 1.0, -1.0), 1.0) + bias
    positive = 1 / (1 + np.exp(-log_odds))
    return np.stack([1 - positive, positive], axis=1), gold


def accuracy(probabilities, gold) -> float:
    return float((labels_and_confidence(probabilities)[0] == gold).mean())


def test_raw_probabilities_become_shares_of_the_answer_mass():
    assert normalise(np.array([[0.1, 0.3], [0.02, 0.02]])) == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))


def test_a_record_without_answer_mass_is_a_fault():
    with pytest.raises(AssertionError, match="answer mass"):
        normalise(np.array([[0.0, 0.0]]))


def test_batch_calibration_is_worked_out_by_hand():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8]])
    # The mean probabilities are 0.35 and 0.65: 0.5/0.35 : 0.5/0.65 = 0.65 : 0.35, and 0.2/0.35 : 0.8/0.65 = 13 : 28.
    corrected = batch_calibration(probabilities).apply(probabilities)
    assert corrected == pytest.approx(np.array([[0.65, 0.35], [13 / 41, 28 / 41]]))


def test_batch_calibration_takes_a_step_and_prior_matching_goes_the_whole_way():
    for bias in (-3.0, 0.0, 3.0):
        probabilities, gold = biased_annotator(4000, share=0.5, bias=bias)
        step, whole = batch_calibration(probabilities), prior_matching(probabilities)
        assert accuracy(step.apply(probabilities), gold) >= accuracy(probabilities, gold)
        assert accuracy(whole.apply(probabilities), gold) == pytest.approx(0.8405)  # whatever the bias was
        assert whole.apply(probabilities).mean(axis=0) == pytest.approx([0.5, 0.5], abs=1e-4)


def test_prior_matching_meets_the_expected_shares_of_three_categories():
    probabilities = normalise(np.random.default_rng(0).gamma(0.5, size=(500, 3)) * [1.0, 5.0, 0.1] + 1e-9)
    shares = np.array([0.2, 0.5, 0.3])
    assert prior_matching(probabilities, shares).apply(probabilities).mean(axis=0) == pytest.approx(shares, abs=1e-4)


def test_expected_shares_keep_a_rare_category_rare():
    probabilities, gold = biased_annotator(4000, share=0.1, bias=2.0)
    shares = np.array([0.9, 0.1])
    for correction in (batch_calibration, prior_matching):
        blind, told = correction(probabilities), correction(probabilities, shares)
        assert accuracy(told.apply(probabilities), gold) > accuracy(blind.apply(probabilities), gold) + 0.2


def test_contextual_calibration_takes_texts_without_content_for_undecided():
    correction = contextual_calibration(np.array([[0.3, 0.1], [0.06, 0.02]]))
    assert correction.apply(np.array([[0.75, 0.25]])) == pytest.approx(np.array([[0.5, 0.5]]))


@pytest.mark.parametrize("correction", [batch_calibration, prior_matching, contextual_calibration])
@pytest.mark.parametrize("rows", [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [[0.5, 0.5]]])
def test_zeros_are_survived(correction, rows):
    probabilities = normalise(np.array(rows))
    corrected = correction(probabilities).apply(probabilities)
    assert np.isfinite(corrected).all()
    assert corrected.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("num_gold", [30, 300])
def test_a_few_gold_labels_correct_bias_and_overconfidence(num_gold):
    probabilities, gold = biased_annotator(6000, share=0.3, bias=2.0, scale=3.0)
    fitted = gold_calibration(probabilities[:num_gold], gold[:num_gold])
    corrected, rest = fitted.apply(probabilities[num_gold:]), gold[num_gold:]
    assert accuracy(corrected, rest) > accuracy(probabilities[num_gold:], rest) + 0.03
    assert brier_score_loss(rest, corrected[:, 1]) < brier_score_loss(rest, probabilities[num_gold:, 1])
    assert fitted.scale < 0.7


def test_gold_calibration_survives_gold_of_one_category_and_of_none_wrong():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    assert np.isfinite(gold_calibration(probabilities, np.array([0, 0, 0])).apply(probabilities)).all()
    corrected = gold_calibration(probabilities, np.array([0, 0, 1])).apply(probabilities)
    assert labels_and_confidence(corrected)[0].tolist() == [0, 0, 1]


def test_gold_calibration_of_three_categories_finds_the_biased_one():
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 3, 900)
    scores = draw.normal(0, 1, (900, 3)) + 2 * np.eye(3)[gold] + np.array([0.0, 0.0, 2.5])
    probabilities = normalise(np.exp(scores))
    corrected = gold_calibration(probabilities[:300], gold[:300]).apply(probabilities[300:])
    assert accuracy(corrected, gold[300:]) > accuracy(probabilities[300:], gold[300:]) + 0.1


def test_reliability_bins_hold_equal_numbers_and_give_the_error():
    confidence = np.array([0.6, 0.9, 0.6, 0.9])
    bins = reliability_bins(confidence, np.array([True, True, False, True]), num_bins=2)
    assert [(b.num_records, b.mean_confidence, b.accuracy) for b in bins] == [(2, 0.6, 0.5), (2, 0.9, 1.0)]
    assert expected_calibration_error(bins) == pytest.approx(0.1)


def test_calibration_error_is_nought_where_confidence_is_the_share_right_and_the_gap_elsewhere():
    is_right = np.array([True] * 75 + [False] * 25)
    for confidence, expected in ((0.75, 0.0), (1.0, 0.25)):
        bins = reliability_bins(np.full(100, confidence), is_right)
        assert expected_calibration_error(bins) == pytest.approx(expected, abs=1e-9)


def test_bins_of_different_confidences_are_of_equal_mass_and_ties_share_one():
    confidence = np.random.default_rng(0).permutation(np.linspace(0.5, 1.0, 100))
    assert [b.num_records for b in reliability_bins(confidence, confidence > 0.7)] == [7] * 10 + [6] * 5
    crowded = np.maximum(confidence, 0.9)
    assert [b.num_records for b in reliability_bins(crowded, confidence > 0.7)] == [82, 6, 6, 6]


def test_a_calibrated_annotator_has_hardly_any_calibration_error():
    probabilities, gold = biased_annotator(20_000, share=0.5, bias=0.0)
    labels, confidence = labels_and_confidence(probabilities)
    assert expected_calibration_error(reliability_bins(confidence, labels == gold)) < 0.015


def test_the_error_of_a_perfectly_calibrated_classifier_is_that_of_chance_and_shrinks_with_the_records():
    random = np.random.default_rng(1)
    errors = {}
    for num in (200, 20_000):
        confidence = random.uniform(0.5, 1.0, num)
        observed = [calibration_error(confidence, random.random(num) < confidence) for _ in range(20)]
        assert np.mean([one.value for one in observed]) == pytest.approx(observed[0].if_calibrated, rel=0.15)
        assert sum(one.low <= one.value <= one.high for one in observed) >= 17
        assert {(one.if_calibrated, one.low, one.high) for one in observed} == {
            (observed[0].if_calibrated, observed[0].low, observed[0].high)
        }
        errors[num] = observed[0].if_calibrated
    assert errors[200] == pytest.approx(10 * errors[20_000], rel=0.15)


def test_an_overconfident_classifier_lies_outside_what_chance_makes():
    random = np.random.default_rng(2)
    confidence = random.uniform(0.8, 1.0, 2_000)
    found = calibration_error(confidence, random.random(2_000) < confidence - 0.1)
    assert found.value > 3 * found.high > 3 * found.if_calibrated > 3 * found.low


def test_where_every_probability_is_one_chance_makes_no_error_and_order_no_difference():
    sure = calibration_error(np.ones(50), np.ones(50, bool))
    assert (sure.value, sure.if_calibrated, sure.low, sure.high) == (0, 0, 0, 0)
    confidence = np.repeat([0.6, 0.9, 0.75], 40)
    is_right = np.arange(120) % 3 > 0
    order = np.random.default_rng(0).permutation(120)
    assert calibration_error(confidence, is_right) == calibration_error(confidence[order], is_right[order])
