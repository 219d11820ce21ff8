"""Shares as text."""

import pytest

from llambert.evaluation.metrics import Estimate
from llambert.report.estimates import estimate_row, interval, of_100, percent


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0"), (1, "100"), (0.8234, "82"), (0.9949, "99"), (0.9996, "99.96"), (0.996, "99.6"), (0.0004, "0.04")],
)
def test_only_all_is_100_of_100_and_only_none_is_0(share, shown):
    assert of_100(share) == shown


def test_neither_are_percentages_and_bounds_rounded_to_all_or_nothing():
    assert (percent(0.7812), percent(0.99996), percent(1.0), percent(1e-5)) == (
        "78.1 %",
        "99.996 %",
        "100.0 %",
        "0.001 %",
    )
    assert interval(Estimate(0.9999, 0.9997, 1.0, 10_000)) == "99.97–100.0 %"


def test_a_missing_estimate_says_what_it_needs():
    assert estimate_row("accuracy", None, need="needs people") == ["accuracy", "needs people", "-", "-"]
