"""Fingerprints: what changes a draw changes the tables it decides, and no others."""

import pytest

from tests.fixtures.split_corpora import open_films

UPSTREAM = ("sample", "responses", "silver", "checkpoint", "labels")


def changed(first, second) -> set[str]:
    return {name for name, value in first.fingerprints.items() if second.fingerprints[name] != value}


def test_annotated_splits_decide_the_sample_and_what_follows_and_no_splits_are_as_before(tmp_path):
    plain, some = open_films(tmp_path), open_films(tmp_path, "annotator.splits=[train,extra]")
    assert changed(plain, some) == {*UPSTREAM, "report"}
    assert changed(some, open_films(tmp_path, "annotator.splits=[extra, train, extra]")) == set()
    assert changed(some, open_films(tmp_path, "annotator.splits=[train]")) == {*UPSTREAM, "report"}
    assert changed(plain, open_films(tmp_path, "annotator.splits=null")) == set()


def test_the_version_of_the_report_is_part_of_its_fingerprint_alone(tmp_path, monkeypatch):
    before = open_films(tmp_path)
    before.fingerprints  # noqa: B018  looked up before the change
    monkeypatch.setattr("llambert.run.REPORT_VERSION", 1000)
    assert changed(before, open_films(tmp_path)) == {"report"}


@pytest.mark.parametrize("regime", ["gold", "silver_extra", "combined"])
def test_one_set_of_answers_serves_every_regime(tmp_path, regime):
    settings = ["annotator.splits=[train,extra,test]"]
    silver, other = open_films(tmp_path, *settings), open_films(tmp_path, *settings, f"classifier.regime={regime}")
    assert changed(silver, other) == {"checkpoint", "labels", "report"}
