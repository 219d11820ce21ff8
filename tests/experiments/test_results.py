"""Means, intervals and differences over seeds, checked against figures worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from llambert import schema
from llambert.experiments.results import mean_over_seeds, mean_over_seeds_and_records, metrics_table
from tests.fixtures.hand_made import results, results_of
from tests.fixtures.labelled_films import open_experiment
from tests.fixtures.simulated_classifiers import MIXTURES, draw_right


def test_the_interval_over_seeds_is_students():
    # Three values one apart: standard error 1 / sqrt(3), t = 4.3027.
    estimate = mean_over_seeds([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.bounds == pytest.approx((2.0 - 2.4841, 2.0 + 2.4841), abs=1e-4)
    assert mean_over_seeds([0.5]).low is None


def test_a_curve_is_the_means_with_their_bounds():
    curve = results({("silver", 400): [0.9, 0.9], ("silver", 200): [0.8, 0.9], ("gold", 200): [0.7]}).curves()["silver"]
    assert [(count, curve[count].value) for count in sorted(curve)] == [(200, pytest.approx(0.85)), (400, 0.9)]
    assert curve[400].bounds == pytest.approx((0.9, 0.9))
    assert curve[200].low < 0.85 < curve[200].high


def test_differences_are_taken_seed_by_seed():
    found = results({("gold", 100): [0.90, 0.80, 0.70], ("silver", 100): [0.89, 0.79, 0.69], ("gold", 200): [0.95]})
    difference = found.difference(("gold", 100), ("silver", 100))
    assert difference.value == pytest.approx(0.01)
    low, high = difference.bounds
    assert (low + high) / 2 == pytest.approx(0.01)
    assert high - low < 0.01  # the seeds differ by ten times as much, but both places alike
    assert found.difference(("gold", 200), ("gold", 100)).num == 1  # the seeds that both have
    assert found.difference(("gold", 200), ("gold", 100)).low is None
    assert found.difference(("gold", 100), ("silver", 200)) is None


def test_an_interval_for_other_seeds_and_records_adds_the_squares_of_both():
    # Seeds 2 apart: standard error 1, t = 12.7062. Records of mean 0, 2, 0 and 2, beside them the pseudo-records 2
    # and -2: the variance of six values, and a sixth of it the mean's. No record flips with the seed.
    values = np.array([[0.0], [2.0]]) + np.array([-1.0, 1.0, -1.0, 1.0])
    estimate = mean_over_seeds_and_records(values, largest=2.0)
    six = np.array([0.0, 2.0, 0.0, 2.0, 2.0, -2.0])
    half = np.sqrt(12.7062**2 + 1.95996**2 * (((six - 2 / 3) ** 2).sum() / 5) / 6)
    assert estimate.value == 1.0
    assert estimate.bounds == pytest.approx((1 - half, 1 + half), abs=1e-3)


def test_seeds_that_agree_by_chance_are_not_taken_for_certainty():
    # Each seed is right about three records that the other method gets wrong, each about others.
    ours, theirs = np.ones((3, 200), dtype=bool), np.ones((3, 200), dtype=bool)
    for seed in range(3):
        theirs[seed, 3 * seed : 3 * seed + 3] = False
    difference = results_of({("a", 1): ours, ("b", 1): theirs}).difference(("a", 1), ("b", 1))
    assert difference.value == pytest.approx(0.015)
    assert difference.high - difference.low > 0.015


def test_the_same_predictions_on_few_records_decide_nothing():
    same = np.ones((5, 3), dtype=bool)
    difference = results_of({("a", 1): same, ("b", 1): same}).difference(("a", 1), ("b", 1))
    assert difference.low < -0.5
    assert difference.high > 0.5
    assert mean_over_seeds_and_records(np.zeros((3, 1)), 1.0).low is None


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
def test_equal_methods_are_called_different_once_in_twenty_at_most(mixture, num_seeds):
    random, num = np.random.default_rng(num_seeds), 300
    wrongly = 0
    for _ in range(num):
        ours, theirs = draw_right(random, [0.06, 0.06], MIXTURES[mixture], num_seeds, 500)
        low, high = results_of({("a", 1): ours, ("b", 1): theirs}).difference(("a", 1), ("b", 1)).bounds
        wrongly += not low <= 0 <= high
    assert wrongly / num < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / num)


@pytest.mark.parametrize(("num_seeds", "error", "power"), [(3, 0.02, 0.9), (5, 0.03, 0.9)])
def test_different_methods_are_told_apart(num_seeds, error, power):
    random, num = np.random.default_rng(0), 100
    told = 0
    for _ in range(num):
        ours, theirs = draw_right(random, [error, 0.06], MIXTURES["records"], num_seeds, 2_000)
        told += results_of({("a", 1): ours, ("b", 1): theirs}).difference(("a", 1), ("b", 1)).bounds[0] > 0
    assert told / num >= power


def test_a_cell_that_stands_in_two_places_took_its_time_once():
    found = results({("gold", 100): [0.9, 0.9]})
    twice = replace(found, found=[*found.found, *found.found])
    assert twice.seconds() == 60.0


def test_the_metrics_table_has_a_row_a_cell_and_one_for_their_mean(tmp_path):
    experiment = open_experiment(tmp_path, "label_count", silver_counts=[20, 40])
    table = metrics_table(results({("silver", 20): [0.5, 0.6]}, num_test=200), experiment)
    assert table.schema.names[: len(schema.METRICS)] == schema.METRICS.names
    rows = table.to_pylist()
    assert [(row["seed"], row["value"]) for row in rows] == [(0, 0.5), (1, 0.6), (None, pytest.approx(0.55))]
    # Wilson's interval of 100 of 200, as published.
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx((0.4314, 0.5686), abs=1e-4)
    assert {row["training_labels"] for row in rows} == {"silver"}
