"""Means, intervals and differences over seeds, checked against figures worked out by hand."""

import pytest

from llambert import schema
from llambert.experiments.results import mean_over_seeds, metrics_table
from tests.fixtures.hand_made import results
from tests.fixtures.labelled_films import open_experiment


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
    assert difference.bounds == pytest.approx((0.01, 0.01))  # each seed by the same, however much seeds differ
    assert found.difference(("gold", 200), ("gold", 100)).num == 1  # the seeds that both have
    assert found.difference(("gold", 100), ("silver", 200)) is None


def test_a_cell_that_stands_in_two_places_took_its_time_once():
    found = results({("gold", 100): [0.9, 0.9]})
    twice = type(found)([*found.found, *found.found], 4)
    assert twice.seconds() == 60.0


def test_the_metrics_table_has_a_row_a_cell_and_one_for_their_mean(tmp_path):
    experiment = open_experiment(tmp_path, "label_count", silver_counts=[20, 40])
    table = metrics_table(results({("silver", 20): [0.5, 0.6]}), experiment)
    assert table.schema.names[: len(schema.METRICS)] == schema.METRICS.names
    rows = table.to_pylist()
    assert [(row["seed"], row["value"]) for row in rows] == [(0, 0.5), (1, 0.6), (None, pytest.approx(0.55))]
    # Wilson's interval of 100 of 200, as published.
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx((0.4314, 0.5686), abs=1e-4)
    assert {row["training_labels"] for row in rows} == {"silver"}
