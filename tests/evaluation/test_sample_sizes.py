import numpy as np
import pytest
from scipy import stats

from llambert.evaluation.guarantee import Population, Promise, certify, max_wrong
from llambert.evaluation.sample_sizes import planned_samples, sampling_floor, smallest_sample

LARGE = Population(10**7, 10**7)


@pytest.mark.parametrize(("target", "num"), [(0.9, 29), (0.95, 59), (0.98, 149), (0.99, 299)])
def test_the_smallest_sample_without_a_wrong_record_is_the_textbook_one(target, num):
    assert smallest_sample(LARGE, Promise(target)) == num


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("population", [LARGE, Population(2_000, 1_500), Population(60, 60)])
def test_a_sample_of_one_record_less_is_too_small(population, replaced):
    promise = Promise(0.9, 0.95, replaced)
    for num_wrong in range(6):
        size = smallest_sample(population, promise, num_wrong)
        assert max_wrong(population, size, promise) >= num_wrong
        assert max_wrong(population, size - 1, promise) < num_wrong


def test_no_sample_shows_more_wrong_records_than_are_allowed_and_passes():
    population = Population(100, 50)
    assert smallest_sample(population, Promise(0.9), 10) == 50
    assert smallest_sample(population, Promise(0.9), 11) is None
    assert smallest_sample(population, Promise(0.9), 51) is None
    assert smallest_sample(population, Promise(0.4)) == 0  # half is decided, that is enough


def test_a_planned_sample_passes_as_often_as_planned():
    rng = np.random.default_rng(0)
    population, promise = Population(20_000, 20_000), Promise(0.9)
    score = rng.permutation(20_000).astype(np.float32) / 20_000
    wrong = rng.random(20_000) < 0.3 * (1 - score)
    plans = planned_samples(population, score, wrong, promise, (1.0, 0.8, 0.6, 0.4))
    assert plans[0].num_sampled is None  # 15 % are wrong
    for plan in plans[1:]:
        passed = []
        for _ in range(400):
            chosen = rng.choice(20_000, plan.num_sampled, replace=False)
            found = certify(population, score[chosen], wrong[chosen], promise)
            passed.append(found.threshold is not None and found.threshold <= plan.threshold)
        assert 0.8 - 3.5 * np.sqrt(0.16 / 400) <= np.mean(passed) <= 0.95
    sizes = [plan.num_sampled for plan in plans[1:]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_plan_is_no_larger_than_what_a_search_through_all_sizes_finds_by_more_than_a_step():
    population, promise = Population(3_000, 3_000), Promise(0.9)
    score, wrong = np.linspace(1, 0.5, 99).astype(np.float32), np.zeros(99, bool)
    wrong[[40, 60, 80, 90]] = True
    (plan,) = planned_samples(population, score, wrong, promise, (1.0,))
    assert plan.share_wrong == 0.045
    power = [stats.hypergeom.cdf(max_wrong(population, n, promise), 3_000, 135, n) for n in range(400)]
    smallest = int(np.argmax(np.array(power) >= 0.8))
    assert smallest <= plan.num_sampled <= smallest + 30


def test_a_pilot_without_a_wrong_record_does_not_plan_the_smallest_sample():
    pilot = np.full(30, 0.9, np.float32), np.zeros(30, bool)
    (plan,) = planned_samples(LARGE, *pilot, Promise(0.95), (1.0,))
    assert plan.num_sampled > 59


def test_equal_scores_are_planned_together():
    score, wrong = np.repeat(np.array([0.9, 0.6], np.float32), 50), np.zeros(100, bool)
    plans = planned_samples(LARGE, score, wrong, Promise(0.9), (0.3, 0.5, 0.6))
    assert [plan.share_kept for plan in plans] == [0.5, 0.5, 1.0]


def test_where_nothing_but_all_records_suffices_the_plan_says_so():
    population = Population(40, 40)
    score, wrong = np.full(40, 0.9, np.float32), np.zeros(40, bool)
    wrong[:4] = True
    (plan,) = planned_samples(population, score, wrong, Promise(0.9), (1.0,))
    assert plan.num_sampled == 40


def test_answers_that_replace_labels_can_make_up_for_more_wrong_ones_than_are_allowed():
    population = Population(1_000, 1_000)
    score, wrong = np.full(99, 0.9, np.float32), np.zeros(99, bool)
    wrong[:14] = True  # 145 of 1,000, allowed are 100
    (plain,) = planned_samples(population, score, wrong, Promise(0.9), (1.0,))
    (replaced,) = planned_samples(population, score, wrong, Promise(0.9, answers_replace=True), (1.0,))
    assert plain.num_sampled is None
    assert 310 < replaced.num_sampled < 600  # a sample of 310 replaces 45 of them on average


def test_a_floor_rules_out_what_the_pilot_shows_to_be_hopeless_and_nothing_without_a_reason():
    score, wrong = np.linspace(1, 0.5, 100).astype(np.float32), np.zeros(100, bool)
    assert sampling_floor(LARGE, score, wrong, Promise(0.95)) == 0
    wrong[::5] = True
    assert sampling_floor(LARGE, score, wrong, Promise(0.95)) == score[30]  # the seventh: 1.2 times 5 of 100
    assert sampling_floor(LARGE, score, wrong, Promise(0.8)) == 0
    assert sampling_floor(LARGE, score, wrong, Promise(0.85)) == 0  # score[90] would rule out nine of 100
    assert sampling_floor(Population(100, 0), score, wrong, Promise(0.8)) == 0
