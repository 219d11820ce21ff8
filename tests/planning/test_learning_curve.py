import numpy as np
import pytest

from llambert.planning.learning_curve import Advice, advise
from tests.fixtures.simulated_classifiers import LAWS, PowerLaw, draw_wrong

STEEP = LAWS["steep, high floor"]


def wrong_by(law: PowerLaw, sizes: np.ndarray, num_each: int, deviation: float = 0.0) -> np.ndarray:
    return draw_wrong(np.random.default_rng(0), law, sizes, deviation, num_each)


def as_number(num: int | None) -> float:
    return np.inf if num is None else num


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.02, 0.04])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("num_each", "limit"), [(250, 25_000), (1_000, 1_000_000)])
def test_the_interval_covers_the_answer_however_much_trainings_differ(law, deviation, num_each, limit):
    random, num = np.random.default_rng(1), 20
    sizes = np.array([num_each // 4, num_each // 2, num_each])
    answer = as_number(LAWS[law].answer(int(sizes[0]), 0.005, limit))
    covered = 0
    for _ in range(num):
        advice = advise(sizes, draw_wrong(random, LAWS[law], sizes, deviation, num_each), 0.005, limit)
        covered += as_number(advice.low) <= answer <= as_number(advice.high)
    assert covered / num >= 0.9


def test_trainings_that_differ_most_on_few_labels_are_covered_too():
    random, sizes, num = np.random.default_rng(2), np.array([250, 500, 1_000]), 100
    answer = LAWS["medium"].answer(250, 0.005, 10**6)
    advices = [
        advise(sizes, draw_wrong(random, LAWS["medium"], sizes, np.array([0.06, 0.03, 0.01]), 1_000), 0.005, 10**6)
        for _ in range(num)
    ]
    assert sum(as_number(one.low) <= answer <= as_number(one.high) for one in advices) / num >= 0.9


@pytest.mark.parametrize("deviation", [0.0, 0.02, 0.04])
def test_the_noise_of_training_is_told_from_that_of_the_records(deviation):
    random, sizes = np.random.default_rng(3), np.array([62, 125, 250])
    found = [advise(sizes, draw_wrong(random, STEEP, sizes, deviation, 250), 0.005, 10**6) for _ in range(100)]
    assert np.sqrt(np.mean([one.training_deviation**2 for one in found])) == pytest.approx(deviation, abs=0.015)


@pytest.mark.parametrize("gain", [0.005, 0.02])
def test_advice_stops_where_a_doubling_gains_less_than_wanted(gain):
    sizes = np.array([100, 200, 400])
    advice = advise(sizes, wrong_by(STEEP, sizes, 100_000), gain, limit=10**6)
    first = STEEP.answer(100, gain, 10**6)
    assert advice.low <= first <= advice.high
    assert first / 4 <= advice.num <= first * 4


def test_a_noisy_training_makes_a_wider_interval():
    sizes = np.array([100, 200, 400])
    quiet, noisy = (advise(sizes, wrong_by(STEEP, sizes, 10_000, deviation), 0.01, 10**7) for deviation in (0, 0.04))
    assert as_number(noisy.high) / noisy.low > as_number(quiet.high) / quiet.low


def test_few_judges_make_a_wide_interval():
    sizes = np.array([100, 200, 400])
    few, many = (advise(sizes, wrong_by(STEEP, sizes, n), 0.01, limit=10**7) for n in (100, 50_000))
    assert as_number(few.high) / few.low > as_number(many.high) / many.low


def test_errors_that_rise_promise_nothing():
    sizes = np.array([100, 200, 400])
    wrong = np.stack([wrong_by(PowerLaw(error, 0.0, 1.0), sizes[:1], 50_000)[0] for error in (0.2, 0.22, 0.24)])
    advice = advise(sizes, wrong, 0.01, limit=10**6)
    assert (advice.num, advice.low, advice.high) == (100, 100, 100)


def test_what_lies_beyond_the_corpus_is_said_to_be_more():
    sizes, law = np.array([100, 200, 400]), PowerLaw(0.0, 1.0, 0.15)
    advice = advise(sizes, wrong_by(law, sizes, 10_000), 0.001, limit=1_000)
    assert (advice.num, advice.low, advice.high) == (None, None, None)
    assert not advice.says_nothing


def test_predictions_that_never_change_are_not_taken_for_certain():
    # Eight to 32 labels, and the classifier still calls every record the same: 30 of 64 are wrong.
    wrong = np.tile(np.arange(64).reshape(2, 32) % 2 == 0, (3, 2, 1, 1))
    advice = advise(np.array([8, 16, 32]), wrong, 0.005, limit=10_000)
    assert as_number(advice.high) > advice.low


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(62, None, True), (62, 62 * 32, True), (62, 62 * 16, False), (10_000, None, False), (None, None, False)],
)
def test_an_interval_of_five_doublings_says_nothing(low, high, expected):
    assert Advice(low, low, high, 25_000, 0.01).says_nothing is expected
