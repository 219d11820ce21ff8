"""A certificate survives its manifest, and says of each label whether it may be kept."""

import numpy as np
import pytest

from llambert.evaluation.certified import ALL, Certified
from llambert.evaluation.guarantee import Population, Promise, certify, certify_categories
from llambert.storage.manifest import Manifest

PROMISE = Promise(0.9, 0.95, answers_replace=True)
CATEGORIES = ["negative", "positive"]


def sampled(num: int, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    score = rng.random(num).astype(np.float32)
    return score, rng.random(num) < (1 - score) / 2


def for_all(num: int = 200) -> Certified:
    population = Population(2_000, 1_500)
    return Certified(PROMISE, {ALL: population}, {ALL: certify(population, *sampled(num), PROMISE)})


def by_category(num: int = 400) -> Certified:
    score, wrong = sampled(num)
    codes = np.arange(num) % 2
    populations = [Population(1_000, 700), Population(1_000, 800)]
    found = certify_categories(populations, codes, score, wrong, PROMISE)
    pairs = (dict(zip(CATEGORIES, each, strict=True)) for each in (populations, found))
    return Certified(PROMISE, *pairs)


@pytest.mark.parametrize("certified", [for_all(), for_all(12), by_category(), by_category(30)])
def test_what_a_manifest_says_is_what_was_certified(certified):
    counts, measures = certified.figures()
    manifest = Manifest(
        stage="certify", fingerprint="0", parts=[], num_in=0, num_kept=0, counts=counts, measures=measures
    )
    again = Certified.of(Manifest.model_validate_json(manifest.model_dump_json()))
    assert again == certified
    assert again.num_sampled == sum(each.num_sampled for each in certified.certificates.values())


def test_labels_from_the_threshold_on_are_kept():
    certified = for_all()
    threshold = certified.certificates[ALL].threshold
    assert threshold is not None
    score = np.array([threshold, np.nextafter(np.float32(threshold), np.float32(0))], np.float32)
    assert certified.is_kept(np.array([0, 1]), score, CATEGORIES).tolist() == [True, False]


def test_each_category_has_its_threshold_in_the_order_of_the_categories():
    certified = by_category()
    low, high = (certified.certificates[name].threshold for name in CATEGORIES)
    assert low != high
    assert certified.thresholds(CATEGORIES).tolist() == [low, high]
    assert certified.thresholds(CATEGORIES[::-1]).tolist() == [high, low]


def test_where_no_threshold_passes_nothing_is_kept():
    certified = for_all(12)
    assert certified.certificates[ALL].threshold is None
    assert not certified.is_kept(np.array([0, 1]), np.ones(2, np.float32), CATEGORIES).any()
