"""What a call of the oracle buys, on populations whose every label is known."""

from dataclasses import dataclass

import numpy as np
import pytest

from llambert.evaluation.frontier import Frontier

NUM, NUM_TRAINED = 2_000, 300


@dataclass(frozen=True)
class World:
    """A corpus: scores, and whether classifier and oracle are right and agree; an unusable answer is no agreement."""

    score: np.ndarray
    classifier_right: np.ndarray
    oracle_right: np.ndarray
    is_usable: np.ndarray

    @property
    def agrees(self) -> np.ndarray:
        return (self.classifier_right == self.oracle_right) & self.is_usable  # of two categories

    def frontier(self, sampled: np.ndarray, open_rows: np.ndarray) -> Frontier:
        return Frontier(
            num_records=NUM,
            num_open=len(open_rows),
            open_score=np.sort(self.score[open_rows]),
            score=self.score[sampled],
            classifier_agrees=self.agrees[sampled],
            is_usable=self.is_usable[sampled],
            has_gold=np.ones(len(sampled), bool),
            classifier_right=self.classifier_right[sampled],
            oracle_right=self.oracle_right[sampled] & self.is_usable[sampled],
        )


def drawn(rng: np.random.Generator, usable: float = 1.0) -> World:
    score = (rng.random(NUM) / 2 + 0.5).astype(np.float32)
    return World(score, rng.random(NUM) < score, rng.random(NUM) < 0.95, rng.random(NUM) < usable)


def split(rng: np.random.Generator, num_sampled: int) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(NUM)[NUM_TRAINED:]
    return order[:num_sampled], order[num_sampled:]


def test_it_begins_with_what_was_asked_anyway_and_ends_with_every_record():
    rng = np.random.default_rng(0)
    points = drawn(rng).frontier(*split(rng, 200)).points(50)
    assert [points[0].num_decided, points[-1].num_decided] == [NUM_TRAINED + 200, NUM]
    assert len(points) == 51
    assert points[-1].agreement.value == 1.0
    values = [point.agreement.value for point in points]
    assert values == sorted(values)  # each record that the oracle decides agrees with it


def test_the_share_is_of_all_records_whoever_decided_them():
    rng = np.random.default_rng(1)
    world, (sampled, open_rows) = drawn(rng), split(rng, 200)
    point = world.frontier(sampled, open_rows).at(np.ones(200, bool), 0)
    open_share = len(open_rows) / NUM
    assert point.agreement.value == pytest.approx(1 - open_share * (1 - world.agrees[sampled].mean()))
    of_oracle, of_classifier = world.oracle_right[sampled].mean(), world.classifier_right[sampled].mean()
    assert point.accuracy.value == pytest.approx(open_share * of_classifier + (1 - open_share) * of_oracle)


def test_the_intervals_hold_the_truth_of_a_threshold_as_often_as_they_say():
    rng = np.random.default_rng(2)
    hits = {"agreement": 0, "accuracy": 0}
    for _ in range(300):
        world, (sampled, open_rows) = drawn(rng, usable=0.98), split(rng, 200)
        is_kept = world.score >= np.float32(0.75)
        point = world.frontier(sampled, open_rows).at(is_kept[sampled], int((~is_kept[open_rows]).sum()))
        keeps = np.zeros(NUM, bool)
        keeps[open_rows] = is_kept[open_rows]
        agrees = np.where(keeps, world.agrees, world.is_usable)
        right = np.where(keeps | ~world.is_usable, world.classifier_right, world.oracle_right)
        for name, truth in (("agreement", agrees.mean()), ("accuracy", right.mean())):
            low, high = getattr(point, name).bounds
            hits[name] += low <= truth <= high
    assert min(hits.values()) >= 0.92 * 300


def test_an_answer_without_a_category_is_never_an_agreement():
    rng = np.random.default_rng(3)
    world, (sampled, open_rows) = drawn(rng, usable=0.9), split(rng, 400)
    last = world.frontier(sampled, open_rows).points(10)[-1]
    assert last.agreement.value == pytest.approx(world.is_usable[sampled].mean())


def test_equal_scores_stay_together():
    rng = np.random.default_rng(4)
    world, (sampled, open_rows) = drawn(rng), split(rng, 100)
    coarse = World(np.round(world.score, 1), world.classifier_right, world.oracle_right, world.is_usable)
    points = coarse.frontier(sampled, open_rows).points(50)
    assert len(points) == len(np.unique(coarse.score[open_rows])) + 1


def test_without_gold_labels_there_is_no_accuracy():
    rng = np.random.default_rng(5)
    frontier = drawn(rng).frontier(*split(rng, 100))
    blind = Frontier(**{**vars(frontier), "has_gold": np.zeros(100, bool)})
    assert all(point.accuracy is None for point in blind.points(5))
