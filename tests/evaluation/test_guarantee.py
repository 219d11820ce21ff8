from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from scipy import stats

from llambert.evaluation.guarantee import (
    Population,
    Promise,
    achieved_share,
    certify,
    certify_categories,
    max_wrong,
    tail_probability,
)

REPLACED = [False, True]


def scores(*values):
    return np.array(values, np.float32)


def flags(*values):
    return np.array(values, bool)


def final_wrong(score, wrong, sample, threshold, promise):
    """Wrong labels of a whole tiny population under a policy."""
    if threshold is None:
        return 0
    kept_wrong = wrong & (score >= threshold)
    if promise.answers_replace:
        kept_wrong[list(sample)] = False
    return int(kept_wrong.sum())


def every_sample(score, wrong, size):
    for sample in combinations(range(len(score)), size):
        chosen = list(sample)
        yield chosen, score[chosen], wrong[chosen]


def test_the_tail_is_that_of_exact_fractions():
    population, promise = Population(40, 30), Promise(0.9)
    for size, num_wrong in product((1, 7, 20, 30), range(5)):
        ways = sum(comb(5, i) * comb(25, size - i) for i in range(min(num_wrong, size) + 1))
        exact = Fraction(ways, comb(30, size))
        assert tail_probability(population, size, num_wrong, promise) == pytest.approx(float(exact), abs=1e-12)


def test_a_large_population_is_tested_like_an_infinite_one():
    population, promise = Population(10**8, 10**8), Promise(0.95)
    assert tail_probability(population, 500, 15, promise) == pytest.approx(stats.binom.cdf(15, 500, 0.05), rel=1e-3)
    assert max_wrong(population, 500, promise) == 16


@pytest.mark.parametrize("replaced", REPLACED)
@pytest.mark.parametrize(
    "score", [scores(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), scores(0.9, 0.9, 0.9, 0.6, 0.6, 0.4, 0.4)]
)
@pytest.mark.parametrize(("target", "confidence"), [(0.6, 0.7), (0.8, 0.6), (0.7, 0.8)])
def test_of_every_tiny_population_no_more_samples_than_stated_lead_to_a_broken_promise(
    score, replaced, target, confidence
):
    promise, population = Promise(target, confidence, replaced), Population(9, 7)
    highest = 0.0
    for wrong, size in product(map(np.array, product([False, True], repeat=7)), (3, 5)):
        broken = [
            final_wrong(score, wrong, chosen, certify(population, seen, answers, promise).threshold, promise)
            > 9 - target * 9 + 1e-9
            for chosen, seen, answers in every_sample(score, wrong, size)
        ]
        assert np.mean(broken) <= promise.level + 1e-12
        highest = max(highest, float(np.mean(broken)))
    assert highest > 0  # the populations are bad enough to break it at times


@pytest.mark.parametrize("replaced", REPLACED)
@pytest.mark.parametrize("confidence", [0.6, 0.8])
def test_share_bounds_hold_for_every_tiny_population_also_where_a_budget_ends_escalation(replaced, confidence):
    score, population = scores(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), Population(9, 7)
    promise = Promise(0.7, confidence, replaced)
    for wrong, reached in product(map(np.array, product([False, True], repeat=7)), (0.3, 0.5, 0.7)):
        too_high = []
        for chosen, seen, answers in every_sample(score, wrong, 4):
            found = certify(population, seen, answers, promise)
            threshold, bound = found.threshold, found.share_bound
            if threshold is None or threshold > reached:
                threshold = reached
                bound = achieved_share(population, seen, answers, promise, reached)
            share = 1 - final_wrong(score, wrong, chosen, threshold, promise) / 9
            too_high.append(share < bound - 1e-9)
        assert np.mean(too_high) <= promise.level + 1e-12


def test_all_that_passes_is_kept_down_to_the_first_wrong_record_too_many():
    population, promise = Population(10_000, 10_000), Promise(0.9)
    score, wrong = np.linspace(1, 0.5, 100).astype(np.float32), np.zeros(100, bool)
    most = max_wrong(population, 100, promise)
    assert most == 4
    wrong[[10, 20, 30, 40, 50, 60]] = True
    found = certify(population, score, wrong, promise)
    assert (found.num_kept, found.num_wrong, found.max_wrong) == (50, 4, 4)
    assert score[50] < found.threshold < score[49]
    assert np.nextafter(np.float32(found.threshold), np.float32(0)) == score[50]
    assert found.share_bound == 0.9


def test_equal_scores_are_kept_or_deferred_together():
    population, promise = Population(10_000, 10_000), Promise(0.9)
    score, wrong = np.repeat(scores(0.9, 0.8, 0.7), (40, 40, 20)), np.zeros(100, bool)
    wrong[[0, 1, 2, 41, 79]] = True
    for order in (np.arange(100), np.arange(100)[::-1]):
        found = certify(population, score[order], wrong[order], promise)
        assert (found.num_kept, found.num_wrong) == (40, 3)


def test_the_order_of_the_sample_does_not_matter():
    rng = np.random.default_rng(0)
    score, wrong = rng.random(300).astype(np.float32), rng.random(300) < 0.1
    order = rng.permutation(300)
    population, promise = Population(5_000, 4_000), Promise(0.95)
    assert certify(population, score, wrong, promise) == certify(population, score[order], wrong[order], promise)


def test_nothing_is_kept_if_the_sample_is_too_small_or_the_highest_scores_are_wrong():
    population, promise = Population(10_000, 10_000), Promise(0.95)
    small = certify(population, np.full(20, 0.9, np.float32), np.zeros(20, bool), promise)
    assert (small.threshold, small.max_wrong, small.share_bound) == (None, -1, 1.0)
    bad = certify(population, np.ones(200, np.float32), np.ones(200, bool), promise)
    assert (bad.threshold, bad.num_kept, bad.num_wrong) == (None, 0, 0)
    assert bad.max_wrong >= 0


def test_without_a_sample_nothing_is_kept_unless_enough_is_decided_already():
    empty = scores(), flags()
    assert certify(Population(100, 100), *empty, Promise(0.9)).threshold is None
    assert certify(Population(100, 10), *empty, Promise(0.9)).threshold == 0.0
    assert certify(Population(100, 11), *empty, Promise(0.9)).threshold is None
    assert certify(Population(0, 0), *empty, Promise(0.9)).share_bound == 1.0


def test_where_the_oracle_has_decided_all_every_label_is_right():
    found = certify(Population(500, 0), scores(), flags(), Promise(0.98))
    assert (found.threshold, found.share_bound) == (0.0, 1.0)


@pytest.mark.parametrize(("num_wrong", "is_complete"), [(5, True), (6, False)])
def test_a_sample_of_all_records_leaves_no_doubt(num_wrong, is_complete):
    score, wrong = np.linspace(0.9, 0.1, 80).astype(np.float32), np.zeros(80, bool)
    wrong[-num_wrong:] = True
    found = certify(Population(100, 80), score, wrong, Promise(0.95))
    assert (found.threshold == 0.0) == is_complete
    assert found.num_wrong == 5
    assert found.share_bound == 0.95
    replaced = certify(Population(100, 80), score, wrong, Promise(0.95, answers_replace=True))
    assert (replaced.threshold, replaced.share_bound) == (0.0, 1.0)


def test_all_right_bounds_the_share_above_the_target():
    population = Population(10**7, 10**7)
    found = certify(population, np.full(1_000, 0.9, np.float32), np.zeros(1_000, bool), Promise(0.95))
    assert found.threshold == 0.0
    assert found.share_bound == pytest.approx(0.05 ** (1 / 1_000), abs=1e-5)  # (Clopper-Pearson without a failure)


def test_records_below_the_floor_are_never_kept_and_never_counted():
    score, wrong = np.linspace(0.9, 0.6, 300).astype(np.float32), np.zeros(300, bool)
    found = certify(Population(10_000, 6_000, floor=0.6), score, wrong, Promise(0.95))
    assert found.threshold == 0.6
    whole = certify(Population(10_000, 10_000), score, wrong, Promise(0.95))
    assert found.share_bound > whole.share_bound  # the same answers about fewer records
    with pytest.raises(AssertionError, match=r"nothing below 0\.6 was sampled"):
        achieved_share(Population(10_000, 6_000, floor=0.6), score, wrong, Promise(0.95), 0.5)


@pytest.mark.parametrize("replaced", REPLACED)
def test_a_harder_promise_keeps_less_and_more_answers_keep_more(replaced):
    population = Population(20_000, 18_000)

    def most(size, target, confidence):
        return max_wrong(population, size, Promise(target, confidence, replaced))

    for size in (50, 200, 1_000, 5_000):
        for target in (0.8, 0.9, 0.95, 0.98):
            values = [most(size, target, confidence) for confidence in (0.5, 0.8, 0.95, 0.99)]
            assert values == sorted(values, reverse=True)
        values = [most(size, target, 0.95) for target in (0.8, 0.9, 0.95, 0.98)]
        assert values == sorted(values, reverse=True)
    assert most(200, 0.9, 0.95) < most(1_000, 0.9, 0.95) < most(5_000, 0.9, 0.95)


def test_answers_that_replace_labels_allow_more_wrong_ones_in_a_small_population_only():
    for num, more in ((2_000, True), (10**8, False)):
        plain, replaced = (max_wrong(Population(num, num), 500, Promise(0.95, 0.95, used)) for used in REPLACED)
        assert (replaced > plain) == more
        assert replaced >= plain


def test_another_wrong_record_never_lowers_the_threshold():
    rng = np.random.default_rng(1)
    population, promise = Population(3_000, 3_000), Promise(0.9)
    score, wrong = rng.random(200).astype(np.float32).round(2), rng.random(200) < 0.1
    before = certify(population, score, wrong, promise).threshold
    for place in np.flatnonzero(~wrong):
        more = wrong.copy()
        more[place] = True
        after = certify(population, score, more, promise).threshold
        assert after is None or after >= before


def test_the_share_that_a_budget_reaches_grows_with_it_and_ends_at_the_target():
    rng = np.random.default_rng(2)
    score = rng.random(1_000).astype(np.float32)
    wrong = rng.random(1_000) < 0.5 * (1 - score)
    population, promise = Population(50_000, 50_000), Promise(0.95)
    certified = certify(population, score, wrong, promise).threshold
    assert 0.4 < certified < 0.9
    reached = [achieved_share(population, score, wrong, promise, level) for level in (0.0, 0.1, 0.3, certified, 0.99)]
    assert reached == sorted(reached)
    assert reached[2] < 0.95
    assert reached[3] == reached[4] == 0.95
    one, ten = (achieved_share(population, score, wrong, promise, 0.1, num) for num in (1, 10))
    assert ten < one


def test_the_target_is_kept_in_whole_records_without_rounding_errors():
    for num, target, allowed in ((100, 0.9, 10), (1_000, 0.999, 1), (999, 0.999, 0), (70, 0.7, 21), (0, 0.9, 0)):
        assert Population(num, num).num_allowed(target) == allowed


def test_each_category_has_its_own_threshold_and_a_complete_one_leaves_its_level_to_the_others():
    populations = [Population(50_000, 50_000), Population(50_000, 50_000)]
    score = np.tile(np.linspace(1, 0.5, 400).astype(np.float32), 2)
    category, wrong = np.repeat([0, 1], 400), np.zeros(800, bool)
    wrong[400::10] = True
    first, second = certify_categories(populations, category, score, wrong, Promise(0.95))
    assert (first.threshold, first.share_bound) == (0.0, 0.95)
    assert second == certify(populations[1], score[400:], wrong[400:], Promise(0.95))  # at the full level
    wrong[0:400:10] = True
    both = certify_categories(populations, category, score, wrong, Promise(0.95))
    halved = certify(populations[1], score[400:], wrong[400:], Promise(0.95, 0.975))
    assert both[0] == both[1] == halved
    assert halved.threshold > second.threshold


def test_a_category_without_records_or_without_a_sample_stands_for_itself():
    populations = [Population(0, 0), Population(1_000, 1_000), Population(1_000, 1_000)]
    score, wrong = np.full(300, 0.9, np.float32), np.zeros(300, bool)
    found = certify_categories(populations, np.full(300, 1), score, wrong, Promise(0.95))
    assert [one.threshold for one in found] == [0.0, 0.0, None]


def test_every_category_keeps_its_promise_at_once_in_every_tiny_population():
    category, score = np.repeat([0, 1], 4), np.tile(scores(0.9, 0.8, 0.7, 0.6), 2)
    populations, promise = [Population(5, 4), Population(5, 4)], Promise(0.6, 0.7)
    for wrong in map(np.array, product([False, True], repeat=8)):
        broken = []
        for chosen, seen, answers in every_sample(score, wrong, 4):
            found = certify_categories(populations, category[chosen], seen, answers, promise)
            broken.append(
                any(
                    one.threshold is not None and (wrong & (category == code) & (score >= one.threshold)).sum() > 2
                    for code, one in enumerate(found)
                )
            )
        assert np.mean(broken) <= promise.level + 1e-12
