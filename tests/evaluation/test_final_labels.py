"""Accuracy of final labels, on records of which it is known who decided them."""

from dataclasses import replace

import numpy as np
import pytest

from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.final_labels import assess_final
from tests.fixtures.made_guarantees import made_guarantee
from tests.fixtures.synthetic_run import Plan, write_run

NOBODY_SAMPLED = made_guarantee({"classifier": 600}, {"": 0.95}, num_sampled=0)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Of 600 records, whose final labels are the classifier's so far."""
    found = read_evidence(write_run(tmp_path_factory.mktemp("run"), Plan(num_duplicates=0))).records
    assert (found.final == found.label).all()
    assert not found.decided_by.any()
    return found


def test_deciders_are_weighted_by_their_labels_not_by_their_gold(records):
    decided_by = np.zeros(600, np.int16)
    decided_by[:100] = 1
    # All of the annotator's are right, and have most of the gold; half of the classifier's are.
    final = np.where((decided_by == 1) | (np.arange(600) % 2 == 0), records.gold, 1 - records.gold).astype(np.int16)
    is_evaluated = decided_by == 1
    is_evaluated[100:150] = True
    mixed = replace(records, decided_by=decided_by, final=final, is_evaluated=is_evaluated)
    found = assess_final(mixed, NOBODY_SAMPLED)
    assert found.by_decider["annotator"].value == 1.0
    assert found.by_decider["classifier"].value == 0.5
    assert found.whole.value == pytest.approx((100 * 1.0 + 500 * 0.5) / 600)
    assert found.whole.num == 150
    low, high = found.whole.bounds
    of_annotator, of_classifier = (found.by_decider[who].bounds for who in ("annotator", "classifier"))
    assert low == pytest.approx(
        found.whole.value - np.hypot(5 / 6 * (0.5 - of_classifier[0]), (1 - of_annotator[0]) / 6)
    )
    assert high == pytest.approx(found.whole.value + 5 / 6 * (of_classifier[1] - 0.5))


def test_labels_of_a_decider_without_gold_leave_the_whole_unknown(records):
    decided_by = np.zeros(600, np.int16)
    decided_by[:100] = 1
    found = assess_final(replace(records, decided_by=decided_by, is_evaluated=decided_by == 0), NOBODY_SAMPLED)
    assert set(found.by_decider) == {"classifier"}
    assert found.whole is None


def test_peoples_labels_are_what_is_promised_and_judge_nothing(records):
    decided_by = np.where(np.arange(600) < 300, 2, 0).astype(np.int16)
    found = assess_final(replace(records, decided_by=decided_by), NOBODY_SAMPLED)
    assert set(found.by_decider) == {"classifier"}
    assert found.whole.value == pytest.approx(found.by_decider["classifier"].value)
    assert found.whole.num == 300
    assert found.has_peoples
    assert not assess_final(records, NOBODY_SAMPLED).has_peoples


def test_gold_that_training_or_the_prompt_was_given_judges_no_final_label(records):
    given = np.arange(600) < 250
    for name in ("is_trained_on_gold", "is_given_away"):
        found = assess_final(replace(records, **{name: given}), NOBODY_SAMPLED)
        assert found.whole.num == 350
