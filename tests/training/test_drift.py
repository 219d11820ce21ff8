import pytest
from scipy.stats import hypergeom

from llambert.training.drift import LEVEL, MIN_RECORDS, Agreement, has_enough, p_of_drop, p_of_shares


def test_a_drop_has_the_exact_probability_of_fishers_test():
    before, now = Agreement(50, 45), Agreement(100, 80)
    # Of 150 records 125 agree: at most 80 of those are among the 100 new ones.
    assert p_of_drop(before, now) == pytest.approx(hypergeom.cdf(80, 150, 125, 100))
    assert p_of_drop(before, Agreement(100, 95)) > 0.5  # a rise is no drop


def test_the_smallest_numbers_can_show_a_drop_at_the_level():
    whole = Agreement(MIN_RECORDS, MIN_RECORDS)
    assert has_enough(whole, whole)
    assert not has_enough(whole, Agreement(MIN_RECORDS - 1, 0))
    assert p_of_drop(whole, Agreement(MIN_RECORDS, 13)) < LEVEL < p_of_drop(whole, Agreement(MIN_RECORDS, 14))


def test_label_shares_are_compared_where_there_is_something_to_compare():
    assert p_of_shares({"a": 50, "b": 50}, {"a": 90, "b": 10}) < 1e-6
    assert p_of_shares({"a": 50, "b": 50}, {"a": 52, "b": 48}) > 0.5
    assert p_of_shares({"a": 50}, {"a": 40}) is None
    assert p_of_shares({"a": 50, "b": 1}, {}) is None
