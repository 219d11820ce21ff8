"""Which checkpoint labels a corpus that has grown, and what the report counts as learned then."""

from pathlib import Path

import numpy as np
import pytest

from llambert import schema
from llambert.evaluation.evidence import read_evidence
from llambert.execution.in_process import IN_PROCESS
from llambert.hashing import hash64
from llambert.integrity.status import render, status
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from llambert.storage.locations import remove_folder
from llambert.storage.refresh_decisions import store_decision
from tests.fixtures.growing_corpora import contents, finished_run, open_growing, rows, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over three files that is finished: 120 records are annotated, 30 of them held out."""
    classifier = {"epochs": 12, "batch_size": 16}
    folder = tmp_path_factory.mktemp("finished")
    with finished_run(folder, 3, classifier=classifier, annotator={"num_records": 120}) as run:
        yield run


@pytest.fixture(autouse=True)
def annotator(finished, tmp_path, monkeypatch):
    """Whoever is asked in a copy of that run, in whose folder the test is."""
    finished.enter_copy(tmp_path, monkeypatch)
    yield finished.annotator
    finished.annotator.is_contrary = False


def grow(*settings, num=180):
    """The run on a corpus with one more file."""
    write(Path("corpus"), "d", rows("d", num))
    pipeline(open_growing(*settings), IN_PROCESS)
    return open_growing(*settings)


def test_a_checkpoint_that_agrees_with_the_annotator_as_before_stays(capsys):
    before = open_growing()
    capsys.readouterr()
    run = grow()
    assert {run.fingerprints[name] == before.fingerprints[name] for name in ("checkpoint", "labels")} == {True}
    decision, said = run.decision, capsys.readouterr().out
    assert decision.stays
    assert (decision.figures["num_before"], decision.figures["num_now"]) == (30, pytest.approx(60, abs=20))
    assert decision.figures["p_value"] > 0.01
    assert "finetune: the checkpoint of 20" in said
    assert "stays: it agrees with the annotator on" in said
    assert decision.reason in render(status(run))
    assert decision.reason in (run.table("report").read_file("report.md")).decode().replace("\\", "")
    assert "the classifier stayed" in run.table("report").read_file("report.md").decode()
    assert verify(run) == []


def test_a_checkpoint_that_agrees_less_than_chance_allows_is_trained_again(annotator, capsys):
    before = open_growing()
    annotator.is_contrary = True
    run = grow()
    assert run.decision.replaces == before.fingerprints["checkpoint"] != run.fingerprints["checkpoint"]
    assert run.decision.figures["p_value"] < 0.01
    assert "finetune: the classifier is trained again: it agrees with the annotator on only" in capsys.readouterr().out
    assert before.table("checkpoint").read_manifest()  # the earlier one is kept
    assert verify(run) == []


def test_too_few_new_records_decide_nothing():
    run = grow(num=9)
    assert run.decision.stays
    assert "too few records can tell" in run.decision.reason


@pytest.mark.parametrize(("refresh", "stays"), [("always", False), ("never", True)])
def test_the_recipe_can_decide_and_changes_no_fingerprint_by_that(annotator, refresh, stays):
    before = open_growing()
    setting = f"classifier.refresh={refresh}"
    assert open_growing(setting).fingerprints == before.fingerprints
    annotator.is_contrary = True
    run = grow(setting)
    assert run.decision.stays == stays
    assert run.decision.reason == f"classifier.refresh is {refresh}"
    assert (run.fingerprints["checkpoint"] == before.fingerprints["checkpoint"]) == stays


def test_another_setting_of_the_recipe_is_followed_at_once():
    kept = grow()
    pipeline(open_growing("classifier.refresh=always"), IN_PROCESS)
    trained = open_growing("classifier.refresh=always")
    assert trained.fingerprints["checkpoint"] == trained.fingerprint_if_trained != kept.fingerprints["checkpoint"]
    assert open_growing().fingerprints == kept.fingerprints
    assert verify(trained) == verify(kept) == []


def test_drivers_that_decide_at_once_agree_on_the_first():
    run = grow()
    other = run.decision.model_copy(update={"trained_in": run.generation, "reason": "another"})
    assert store_decision(run.directory, run.checkpoint_recipe, "auto", other) == run.decision


def test_a_checkpoint_that_is_gone_is_trained_on_todays_sample():
    run = grow()
    table = run.table("checkpoint")
    remove_folder(table.filesystem, table.path())
    again = open_growing()
    pipeline(again, IN_PROCESS)
    again = open_growing()
    assert again.fingerprints["checkpoint"] == again.fingerprint_if_trained
    assert again.table("checkpoint").read_manifest()
    assert verify(again) == []


def test_figures_go_by_what_the_checkpoint_learned_then_not_by_todays_sample():
    before = open_growing()
    silver = contents(before, "silver")["silver"]
    run = grow()
    records = read_evidence(run).records
    learned = {row["text"] for row in silver}
    texts = [row["text"] for row in contents(run, "corpus")["corpus"]]
    assert [text in learned for text in texts] == records.is_learned.tolist()
    assert (records.is_annotated & ~records.is_learned).any()  # sampled since, and not learned from
    assert (records.is_learned & ~records.is_annotated).any()  # learned from, and no longer in the sample
    assert records.is_seen[records.is_learned].all()
    assert np.isin(hash64(sorted(learned)), run.table("learned").read()[schema.TEXT_HASH].to_numpy()).all()
