"""Pace and budget of an endpoint, by the numbers."""

import threading

import pytest

from llambert.engines.limits import Budget, RateLimiter
from llambert.recipe import EndpointLimits


def test_places_are_evenly_spaced_by_requests_and_by_tokens():
    pace = RateLimiter(EndpointLimits(requests_per_minute=60, tokens_per_minute=600))
    waits = [pace.take(5), pace.take(50), pace.take(1)]
    assert waits == pytest.approx([0, 1, 6], abs=0.05)  # a request a second, then 50 tokens at 10 a second


def test_a_correction_moves_the_next_place():
    pace = RateLimiter(EndpointLimits(tokens_per_minute=600))
    pace.take(10)
    pace.correct(20)
    assert pace.take(1) == pytest.approx(3, abs=0.05)


def test_without_limits_nobody_waits_but_for_a_hold():
    pace = RateLimiter(EndpointLimits())
    assert pace.take(10**6) == pace.take(10**6) == 0
    pace.hold(2)
    assert pace.take(1) == pytest.approx(2, abs=0.05)


def test_what_is_set_aside_counts_until_it_is_settled():
    budget = Budget(EndpointLimits(budget_tokens=100), (10, 10))
    assert budget.reserve((50, 10))
    budget.settle((50, 10), (20, 5))
    assert budget.reserve((50, 5))
    budget.settle((50, 5), (50, 5))
    assert budget.describe_end() == "the budget ends here: 100 of 100 tokens are spent"
    assert not budget.reserve((1, 0))


def test_dollars_and_tokens_are_both_kept():
    prices = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_response_tokens": 30.0}
    budget = Budget(EndpointLimits(budget_tokens=10**6, budget_usd=0.5, **prices), (0, 0))
    assert not budget.reserve((50_001, 0))
    assert budget.reserve((20_000, 10_000))
    budget.settle((20_000, 10_000), (20_000, 10_000))
    assert (
        budget.describe_end()
        == "the budget ends here: 30,000 of 1,000,000 tokens are spent; 0.50 of 0.5 dollars are spent"
    )


def test_the_first_to_ask_gets_the_rest_of_the_budget():
    budget = Budget(EndpointLimits(budget_tokens=100), (0, 0))
    assert budget.reserve((60, 0))
    granted: dict[str, bool] = {}
    first = threading.Thread(target=lambda: granted.update(first=budget.reserve((50, 0))))
    first.start()
    while not budget.waiting:
        pass
    second = threading.Thread(target=lambda: granted.update(second=budget.reserve((40, 0))))
    second.start()
    second.join(0.05)
    assert granted == {}  # 40 would fit at once, but would starve the first
    budget.settle((60, 0), (30, 0))
    first.join(5)
    budget.settle((50, 0), (30, 0))
    second.join(5)
    assert granted == {"first": True, "second": True}
