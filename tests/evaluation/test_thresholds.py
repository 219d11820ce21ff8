"""Score thresholds: whether they keep their promise, and whether what is printed keeps what is stated."""

import json

import numpy as np
import pytest

from llambert.evaluation.thresholds import score_threshold

GRID = (np.arange(10_000) + 0.5) / 10_000


def _threshold(rank, accuracy, wanted, rng, to_score):
    score = to_score(rank).astype(np.float32)
    right = rng.random(len(rank)) < accuracy(rank)
    all_scores = np.sort(to_score(GRID).astype(np.float32))
    return score_threshold(score, right, all_scores, wanted), all_scores


@pytest.mark.parametrize("num", [60, 400])
@pytest.mark.parametrize("wanted", [0.8, 0.95])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct scores", "ten scores"])
@pytest.mark.parametrize("shape", ["level", "lower at the top", "lower at the end"])
def test_a_threshold_promises_too_much_in_at_most_2_5_percent_of_samples(num, wanted, ties, shape):
    rng = np.random.default_rng(1)
    curves = {
        "level": lambda rank: np.full_like(rank, wanted - 1e-6),
        "lower at the top": lambda rank: np.where(rank < 0.3, wanted - 0.1, wanted + 0.03),
        "lower at the end": lambda rank: np.where(rank < 0.5, wanted + 0.01, wanted - 0.05),
    }
    accuracy = curves[shape]
    right_above = np.cumsum(accuracy(GRID)) / np.arange(1, len(GRID) + 1)
    repetitions, broken = 500, 0
    for _ in range(repetitions):
        found, _ = _threshold(
            rng.random(num), accuracy, wanted, rng, lambda rank: np.round(1 - rank, 1) if ties else 1 - rank
        )
        broken += found is not None and right_above[found.num_kept - 1] < wanted
    # Three standard errors of 500 samples.
    assert broken / repetitions <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / repetitions)


def test_most_of_the_records_that_could_be_kept_are_kept():
    rng = np.random.default_rng(2)
    # The records above rank r are right in 1 - r / 5 of the cases: 95 % in the first quarter, 90 % in the first half.
    for wanted, best in ((0.9, 0.5), (0.95, 0.25)):
        found, _ = _threshold(rng.random(20_000), lambda rank: 1 - 0.4 * rank, wanted, rng, lambda rank: 1 - rank)
        assert found is not None
        assert 0.8 * best < found.coverage <= best
        assert found.accuracy >= wanted


def test_one_wrong_label_at_the_top_does_not_end_the_search():
    score = np.linspace(1, 0.5, 1_000).astype(np.float32)
    right = np.ones(1_000, bool)
    right[[3, 30]] = False
    found = score_threshold(score, right, np.sort(score), 0.9)
    assert found is not None
    assert (found.num_kept, found.coverage, found.num_gold) == (1_000, 1.0, 1_000)


@pytest.mark.parametrize(("num", "wanted"), [(1, 0.8), (10, 0.8), (30, 0.95), (300, 0.99)])
def test_too_few_gold_records_prove_nothing_even_if_all_are_right(num, wanted):
    score = np.linspace(0.5, 1, num).astype(np.float32)
    assert score_threshold(score, np.ones(num, bool), score, wanted) is None


def _near_equal(rng):
    """Scores that differ in the last bit of a float32, and many that are equal."""
    chain = [np.float32(0.7)]
    for _ in range(3_000):
        chain.append(np.nextafter(chain[-1], np.float32(1)) if rng.random() < 0.7 else chain[-1])
    return np.array(chain)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scores", ["near-equal", "spread", "one"])
def test_the_printed_threshold_keeps_exactly_the_stated_records(scores, seed):
    rng = np.random.default_rng(seed)
    made = {
        "near-equal": lambda: _near_equal(rng),
        "spread": lambda: (1 - rng.random(3_000) ** 3).astype(np.float32),
        "one": lambda: np.ones(3_000, np.float32),
    }
    all_scores = np.sort(made[scores]())
    gold = np.sort(rng.choice(3_000, 500, replace=False))
    right = rng.random(500) < np.linspace(0.5, 1.0, 500) if scores != "one" else np.ones(500, bool)
    found = score_threshold(all_scores[gold], right, all_scores, 0.8)
    assert found is not None
    printed = float(str(found.threshold))
    assert printed == json.loads(json.dumps(found.threshold)) == found.threshold
    for cutoff in (np.float32(printed), np.float64(printed)):
        assert int((all_scores.astype(cutoff.dtype) >= cutoff).sum()) == found.num_kept
        assert int((all_scores[gold].astype(cutoff.dtype) >= cutoff).sum()) == found.num_gold
    assert right[all_scores[gold] >= np.float32(printed)].mean() == pytest.approx(found.accuracy)


def test_a_threshold_is_as_short_as_the_gap_between_scores_allows():
    all_scores = np.array([0.5] * 100 + [0.87654] * 100, np.float32)
    right = np.repeat([False, True], 100)
    found = score_threshold(all_scores, right, all_scores, 0.9)
    assert found is not None
    assert (str(found.threshold), found.num_kept) == ("0.876", 100)
