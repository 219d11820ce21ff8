"""The counts of ``bench_replays``: what a threshold leaves wrong, what it costs, and the intervals of accuracies."""

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.replays.gold_accuracy import by_annotator, by_people, share_escalated, weighted_mean
from tests.benchmarks.replays.replaying import Replays, Samples, promise_of, replay
from tests.benchmarks.replays.stored_answers import StoredAnswers
from tests.benchmarks.replays.threshold_rules import RULES
from tests.benchmarks.replays.undecided import Outcome, undecided_by_annotator, undecided_by_people


@pytest.fixture
def stored() -> StoredAnswers:
    """Eight records of two categories; the last two are copies, the first was annotated, the third has no answer."""
    return StoredAnswers(
        score=np.array([0.9, 0.5, 0.6, 0.7, 0.8, 0.95, 0.55, 0.55], np.float32),
        label=np.array([0, 0, 0, 1, 1, 1, 0, 0], np.int16),
        answer=np.array([1, 0, 0, 0, 1, 1, 1, 1], np.int16),
        answered=np.array([1, 1, 0, 1, 1, 1, 1, 1], bool),
        gold=np.array([0, 1, 0, 1, 1, 1, 0, 0], np.int16),
        has_gold=np.array([1, 1, 1, 1, 1, 0, 1, 1], bool),
        annotated=np.array([1, 0, 0, 0, 0, 0, 0, 0], bool),
        text_of=np.array([0, 1, 2, 3, 4, 5, 6, 6]),
        num_categories=2,
    )


def test_undecided_records_are_ordered_and_an_answer_without_a_label_is_a_disagreement(stored: StoredAnswers) -> None:
    records = undecided_by_annotator(stored)
    assert records.row.tolist() == [5, 4, 3, 2, 6, 7, 1]
    assert records.wrong.tolist() == [False, False, True, True, True, True, False]
    assert records.population.num_records == 8


def test_sampled_and_deferred_records_are_right_and_a_text_is_asked_about_once(stored: StoredAnswers) -> None:
    records = undecided_by_annotator(stored)
    assert records.outcome(np.array([], int), 7) == Outcome(1 - 4 / 8, 0, 0)
    assert records.outcome(np.array([2]), 4) == Outcome(1 - 1 / 8, 1, 2)
    assert records.outcome(np.array([4]), 4) == Outcome(1 - 2 / 8, 1, 1)
    assert records.num_kept(0.55) == 6
    assert records.num_needed(promise_of(0.75)) == 2
    assert records.num_kept(None) == 0


def test_people_are_asked_about_every_record_with_gold(stored: StoredAnswers) -> None:
    records = undecided_by_people(stored)
    assert records.population.num_records == 7
    assert records.wrong.sum() == 1
    assert records.outcome(np.array([], int), 4).num_deferred == 3


def test_storing_loses_nothing(stored: StoredAnswers, tmp_path: Path) -> None:
    stored.save(tmp_path / "answers.npz")
    loaded = StoredAnswers.load(tmp_path / "answers.npz")
    assert all(np.array_equal(loaded.__dict__[name], value) for name, value in stored.__dict__.items())


def test_replays_of_a_false_rule_break_their_promise_and_the_certificate_does_not() -> None:
    rng = np.random.default_rng(0)
    num = 3_000
    score, label = rng.random(num).astype(np.float32), np.zeros(num, np.int16)
    answer = (rng.random(num) < 0.4 * (1 - score)).astype(np.int16)
    everywhere, nowhere = np.ones(num, bool), np.zeros(num, bool)
    stored = [
        StoredAnswers(score, label, answer, everywhere, answer, everywhere, nowhere, np.arange(num), 2)
        for _ in range(5)
    ]
    records, draw = [undecided_by_annotator(one) for one in stored], Samples(40, 0)
    kept = replay(records, promise_of(0.9), lambda one, *_: len(one.score), 100, draw)
    ours = replay(records, promise_of(0.9), RULES["ours"], 300, draw)
    assert kept.num_broken == 200
    assert ours.broken_interval[0] <= 0.05
    assert ours.mean("num_deferred") < num / 2
    assert ours.outcomes != replay(records, promise_of(0.9), RULES["ours"], 300, Samples(40, 1)).outcomes
    # With gold labels equal to the answers, both oracles make the same final labels.
    final = by_annotator(stored, 0.9, 300, draw).final
    assert final.mean() == pytest.approx(ours.mean("agreement"))
    assert np.array_equal(final, by_people(stored, 0.9, 300, draw).final)


def test_a_share_that_is_exactly_the_target_is_kept() -> None:
    assert Replays([Outcome(1 - 100 / 1_000, 0, 0), Outcome(1 - 101 / 1_000, 0, 0)], 0.9).num_broken == 1


def test_the_interval_of_seeds_that_agree_is_that_of_one(stored: StoredAnswers) -> None:
    values = np.random.default_rng(0).random((1, 400))
    one, five = weighted_mean(values), weighted_mean(np.repeat(values, 5, axis=0))
    assert five.value == pytest.approx(values.mean())
    assert five.bounds == pytest.approx(one.bounds)
    half = 1.96 * values.std() / np.sqrt(400)
    assert one.bounds == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-3)


def test_the_least_sure_take_the_annotators_answer(stored: StoredAnswers) -> None:
    assert share_escalated([stored], 0.0) == pytest.approx((2 / 6, 5 / 6))
    assert share_escalated([stored], 1.0) == pytest.approx((1.0, 1 / 6))
