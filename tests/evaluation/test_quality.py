"""Accuracy, agreement and bias, and of which records each is measured."""

import pytest

from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.quality import assess
from tests.fixtures.synthetic_run import Plan, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("quality"), Plan(splits=("train", "test")))


def test_accuracy_is_measured_on_distinct_records_the_annotator_never_saw(run):
    evidence = read_evidence(run)
    quality = assess(evidence)
    plan = Plan()
    assert quality.unseen.accuracy.num == plan.num - plan.num_annotated - plan.num_duplicates
    assert quality.whole.accuracy.num == plan.num - plan.num_duplicates
    assert quality.silver.accuracy.num == plan.num_annotated - plan.num_rejected
    assert quality.unseen.accuracy.value == pytest.approx(0.9, abs=0.04)
    assert quality.silver.accuracy.value == pytest.approx(0.8, abs=0.08)
    low, high = quality.difference.bounds
    assert low < quality.unseen.accuracy.value - quality.silver.accuracy.value < high
    assert set(quality.by_split) == {"train", "test"}


def test_gold_that_was_trained_on_judges_no_classifier(tmp_path):
    run = write_run(tmp_path, Plan(regime="combined", splits=("train", "test")))
    evidence = read_evidence(run)
    records, quality = evidence.records, assess(evidence)
    trained = records.split == records.splits.index("train")
    # The first ten texts are those of the last record again, which is of split test: five of these are trained on.
    trained[[*range(1, 10, 2), -1]] = True
    assert (records.is_trained_on_gold == trained).all()
    assert quality.unseen.accuracy.num == int((~trained & ~records.is_annotated & ~records.is_duplicate).sum())
    assert set(quality.by_split) == {"test"}
    assert all(share.corrected.num == int((~trained).sum()) for share in quality.shares)


def test_prior_correction_is_measured_on_the_same_records(run):
    prior = assess(read_evidence(run)).prior
    assert prior.raw.num == prior.corrected.num
    assert prior.raw.value < prior.corrected.value
    assert prior.gain.value == pytest.approx(prior.corrected.value - prior.raw.value)
    assert prior.num_changed > 0
