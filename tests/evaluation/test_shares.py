"""Corrected shares: how often their intervals cover, what they add up to, and what copies of a text count for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambert.evaluation.metrics import Estimate
from llambert.evaluation.shares import corrected_shares

NUM_SAMPLES = 500


def _shares(gold, predicted, num_labelled):
    """All texts are distinct."""
    num = len(gold)
    return corrected_shares(gold, predicted, np.array(num_labelled), np.arange(num), np.ones(num, int))


def _covered_and_width(counts, num, rng):
    """Of the first of two categories; ``counts`` of the corpus: gold and label are it, gold is, label is, neither."""
    truth = (counts[0] + counts[1]) / sum(counts)
    drawn, times = np.unique(rng.multivariate_hypergeometric(counts, num, NUM_SAMPLES), axis=0, return_counts=True)
    labelled = [counts[0] + counts[2], counts[1] + counts[3]]
    covered = width = 0.0
    for cells, often in zip(drawn, times, strict=True):
        gold, predicted = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], cells, axis=0).T
        low, high = _shares(gold, predicted, labelled)[0].bounds
        covered += often * (low <= truth + 1e-9 and truth <= high + 1e-9)
        width += often * (high - low)
    return covered / NUM_SAMPLES, width / NUM_SAMPLES


@pytest.mark.parametrize("num", [30, 200])
@pytest.mark.parametrize("share", [0.005, 0.01])
@pytest.mark.parametrize(
    ("sensitivity", "false_positives"), [(0.0, 0.0), (0.5, 0.005), (0.8, 0.1), (1.0, 0.0)],
    ids=["never predicted", "half found", "more false positives than the share", "perfect"],
)  # fmt: skip
def test_intervals_of_rare_categories_cover_the_truth_at_least_93_times_of_100(
    num, share, sensitivity, false_positives
):
    size = 20_000
    positive = round(share * size)
    hits, wrong = round(positive * sensitivity), round((size - positive) * false_positives)
    counts = [hits, positive - hits, wrong, size - positive - wrong]
    covered, _ = _covered_and_width(counts, num, np.random.default_rng(num))
    assert covered >= 0.93


@pytest.mark.parametrize("size", [60, 75, 200])
def test_intervals_cover_in_a_corpus_of_which_most_has_gold(size):
    rng = np.random.default_rng(1)
    for counts in ([1, 1, 0, size - 2], [0, 1, 3, size - 4], [size // 3, 2, 2, size - size // 3 - 4]):
        covered, _ = _covered_and_width(counts, 50, rng)
        assert covered >= 0.93


def test_a_good_classifier_narrows_the_interval_and_a_useless_one_does_little_harm():
    rng = np.random.default_rng(2)
    wilson = np.mean([np.diff(Estimate.share(int(hits), 200).bounds) for hits in rng.binomial(200, 0.2, 500)])
    _, good = _covered_and_width([3_800, 200, 160, 15_840], 200, rng)
    _, useless = _covered_and_width([1_200, 2_800, 4_800, 11_200], 200, rng)
    assert good < 0.65 * wilson
    assert useless < 1.06 * wilson


@pytest.mark.parametrize("num_categories", [2, 4, 10])
def test_shares_of_all_categories_sum_to_one_and_are_unbiased(num_categories):
    rng = np.random.default_rng(3)
    weights = 0.5 ** np.arange(num_categories)
    truth = rng.choice(num_categories, 5_000, p=weights / weights.sum())
    label = np.where(rng.random(5_000) < 0.7, truth, rng.integers(0, num_categories, 5_000))
    labelled = np.bincount(label, minlength=num_categories)
    true_shares = np.bincount(truth, minlength=num_categories) / 5_000
    values = []
    for _ in range(300):
        rows = rng.permutation(5_000)[:100]
        estimates = _shares(truth[rows], label[rows], labelled)
        values.append([estimate.value for estimate in estimates])
        assert all(estimate.low <= estimate.value <= estimate.high for estimate in estimates)
    assert np.sum(values, axis=1) == pytest.approx(1)
    assert np.mean(values, axis=0) == pytest.approx(true_shares, abs=0.008)


@pytest.mark.parametrize("num_labelled", [[0, 10_000], [50, 9_950], [3_000, 7_000]])
@pytest.mark.parametrize("num", [30, 500])
def test_without_a_hit_the_upper_bound_is_at_least_that_of_wilson(num_labelled, num):
    predicted = np.ones(num, int)
    predicted[: num * num_labelled[0] // 10_000] = 0
    rare, other = _shares(np.ones(num, int), predicted, num_labelled)
    assert rare.low == 0
    assert rare.high >= Estimate.share(0, num).bounds[1]
    assert other.bounds == pytest.approx((1 - rare.high, 1 - rare.low))


def test_a_share_is_exact_when_every_record_has_gold():
    gold, predicted = np.repeat([0, 1], [30, 70]), np.repeat([0, 1], [50, 50])
    first, second = _shares(gold, predicted, [50, 50])
    assert (first.value, *first.bounds) == (0.3, 0.3, 0.3)
    assert (second.value, *second.bounds) == (0.7, 0.7, 0.7)


def test_gold_on_one_copy_of_every_text_tells_the_share_of_all_copies():
    copies = np.array([1, 2, 3, 4])
    text = np.arange(4)
    first, second = corrected_shares(np.array([0, 1, 1, 0]), np.zeros(4, int), np.array([10, 0]), text, copies)
    assert (first.value, *first.bounds) == pytest.approx((0.5, 0.5, 0.5))
    assert first.num == second.num == 4


def test_gold_on_the_copies_of_a_text_narrows_no_interval():
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 2, 60)
    predicted = np.where(rng.random(60) < 0.8, gold, 1 - gold)
    labelled, once = np.array([5_000, 5_000]), np.ones(60, int)
    alone = corrected_shares(gold, predicted, labelled, np.arange(60), once)
    text = np.repeat(np.arange(60), 5)
    copied = corrected_shares(gold[text], predicted[text], 5 * labelled, text, np.full(300, 5))
    for one, five in zip(alone, copied, strict=True):
        assert five.num == 60
        assert (five.value, *five.bounds) == pytest.approx((one.value, *one.bounds), abs=5e-4)


@pytest.mark.parametrize("gold_on", ["records", "texts"])
def test_intervals_cover_the_share_of_all_records_where_some_texts_have_many_copies(gold_on):
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(400):
        num_copies = np.where(rng.random(2_000) < 0.05, 10, 1)
        num_copies[0] = (
            500 if gold_on == "records" else 1
        )  # seldom in a sample of texts, nearly always in one of records
        truth = (rng.random(2_000) < 0.2).astype(int)
        label = np.where(rng.random(2_000) < 0.85, truth, 1 - truth)
        all_texts = np.repeat(np.arange(2_000), num_copies)
        if gold_on == "records":
            chosen = all_texts[rng.permutation(len(all_texts))[:200]]
        else:
            texts = rng.permutation(2_000)[:100]
            chosen = np.repeat(texts, num_copies[texts])
        labelled = np.bincount(label[all_texts], minlength=2)
        estimates = corrected_shares(truth[chosen], label[chosen], labelled, chosen, num_copies[chosen])
        low, high = estimates[1].bounds
        covered.append(low <= truth[all_texts].mean() <= high)
    assert np.mean(covered) >= 0.93


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_corrected_shares_of_any_sample_are_shares_within_their_bounds(num, num_categories, seed):
    rng = np.random.default_rng(seed)
    copies_of_text = rng.integers(1, 4, num + int(rng.integers(0, 200)))
    text = np.repeat(np.arange(len(copies_of_text)), copies_of_text)
    gold, label = rng.integers(0, rng.integers(1, num_categories + 1), (2, len(text)))
    rows = rng.permutation(len(text))[:num]
    labelled = np.bincount(label, minlength=num_categories)
    estimates = corrected_shares(gold[rows], label[rows], labelled, text[rows], copies_of_text[text[rows]])
    assert sum(estimate.value for estimate in estimates) == pytest.approx(1)
    for estimate in estimates:
        low, high = estimate.bounds
        assert 0 <= low <= estimate.value <= high <= 1
        assert estimate.num == len(np.unique(text[rows]))
