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
    assert quality.whole.accuracy.num == int((~trained & ~records.is_duplicate).sum())
    assert set(quality.by_split) == {"test"}
    assert all(share.corrected.num == int((~trained).sum()) for share in quality.shares)


def test_prior_correction_is_measured_on_the_same_records(run):
    prior = assess(read_evidence(run)).prior
    assert prior.raw.num == prior.corrected.num
    assert prior.raw.value < prior.corrected.value
    assert prior.gain.value == pytest.approx(prior.corrected.value - prior.raw.value)
    assert prior.num_changed > 0


def test_rejected_answers_are_counted_as_wrong_only_where_gold_can_judge_them(tmp_path):
    quality = assess(read_evidence(write_run(tmp_path / "some", Plan(gold=0.5, num_rejected=60))))
    usable, counted = quality.silver.accuracy, quality.silver_rejects_wrong
    assert usable.num < counted.num < usable.num + 60
    assert counted.value == pytest.approx(usable.value * usable.num / counted.num)
    none = assess(read_evidence(write_run(tmp_path / "none", Plan(num_annotated=20, num_rejected=20))))
    assert none.silver is None
    assert (none.silver_rejects_wrong.value, none.silver_rejects_wrong.num) == (0, 20)


def test_copies_of_a_text_are_one_observation_of_the_corrected_shares(run):
    evidence = read_evidence(run)
    records, shares = evidence.records, assess(evidence).shares
    assert {share.corrected.num for share in shares} == {int((~records.is_duplicate).sum())}
    assert sum(share.corrected.value for share in shares) == pytest.approx(1)
    assert sum(share.num_labelled for share in shares) == len(records)


def test_a_threshold_keeps_the_stated_records_of_all_that_are_labelled(run):
    evidence = read_evidence(run)
    records, found = evidence.records, assess(evidence).thresholds[0.8]
    assert found.num_kept == int((records.score[records.has_label] >= found.threshold).sum())
    assert found.num_gold == int((records.score[records.is_unseen] >= found.threshold).sum())
    assert found.coverage == found.num_kept / int(records.has_label.sum())
