import numpy as np
import pytest

from llambert.planning.learning_curve import PowerLaw, advise, fit


def wrong_by(decay: PowerLaw, sizes: np.ndarray, num_records: int, seed: int = 0) -> np.ndarray:
    """Which records each size gets wrong: nested, as a better classifier mends some of a worse one's mistakes."""
    luck = np.random.default_rng(seed).random(num_records)
    return np.stack([luck < decay.error(size) for size in sizes])


def test_a_decay_is_found_again():
    sizes = np.array([100, 200, 400, 800])
    decay = PowerLaw(0.1, 2.0, 0.5)
    found = fit(sizes, np.array([decay.error(size) for size in sizes]))
    assert found.exponent == 0.5
    assert (found.floor, found.scale) == pytest.approx((0.1, 2.0))


def test_errors_that_rise_promise_nothing():
    found = fit(np.array([100, 200, 400]), np.array([0.2, 0.21, 0.22]))
    assert found.doubling_gain(400) == 0


@pytest.mark.parametrize("gain", [0.005, 0.02])
def test_advice_stops_where_a_doubling_gains_less_than_wanted(gain):
    sizes, decay = np.array([100, 200, 400]), PowerLaw(0.1, 2.0, 0.5)
    advice = advise(sizes, wrong_by(decay, sizes, 20_000), gain, limit=10**6)
    first = next(num for num in 100 * 2 ** np.arange(20) if decay.doubling_gain(num) < gain)
    assert advice.low <= first <= advice.high
    assert first / 4 <= advice.num <= first * 4


def test_few_judges_make_a_wide_interval():
    sizes, decay = np.array([100, 200, 400]), PowerLaw(0.1, 2.0, 0.5)
    few, many = (advise(sizes, wrong_by(decay, sizes, n), 0.01, limit=10**7) for n in (200, 50_000))
    assert few.high is None or few.high / few.low > many.high / many.low


def test_what_lies_beyond_the_corpus_is_said_to_be_more():
    sizes, decay = np.array([100, 200, 400]), PowerLaw(0.0, 1.0, 0.15)
    advice = advise(sizes, wrong_by(decay, sizes, 20_000), 0.001, limit=1_000)
    assert (advice.num, advice.low, advice.high) == (None, None, None)
