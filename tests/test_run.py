"""Fingerprints: what changes a draw changes the tables it decides, and no others; and what a manifest says of a run."""

import pytest

from llambert import schema
from tests.fixtures.label_runs import filled_run
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


def test_a_complete_table_says_where_it_comes_from_and_so_does_what_it_rejects(tmp_path):
    run = filled_run(tmp_path, 20)
    name = "part-00000-000000.parquet"
    rejected = {schema.RECORD_ID: ["r00003"], schema.TEXT: ["x"], schema.REJECT_REASON: ["model_error"]}
    rejects = run.table("label_rejects")
    rejects.commit_part(name, schema.CORPUS_REJECTS.empty_table().from_pydict(rejected, schema.CORPUS_REJECTS))
    part = run.table("labels").commit_part(name, schema.LABELS.empty_table())
    with pytest.raises(AssertionError, match="label_rejects has 1 rows, labels counts 2 rejected"):
        run.complete("labels", [part], {"model_error": 2})
    assert run.table("labels").read_manifest() is None
    made = run.complete("labels", [part], {"model_error": 1}, {"more": "1"}, counts={"num_tokens": 4})
    theirs = rejects.require_manifest()
    assert (made.num_in, made.num_kept, made.num_rejected) == (1, 0, {"model_error": 1})
    assert (theirs.num_in, theirs.num_kept, theirs.counts) == (1, 1, {"model_error": 1})
    for manifest in (made, theirs):
        assert manifest.stage == "label"
        assert manifest.fingerprint == run.fingerprints["labels"]
        assert manifest.upstream == {name: run.fingerprints[name] for name in ("corpus", "checkpoint")} | {"more": "1"}
        assert manifest.recipe == run.recipe.label.model_dump(mode="json")
        assert manifest.model == run.recipe.classifier.model
        assert manifest.model_identity
    with pytest.raises(ValueError, match="3 in, but 0 kept and 1 rejected"):
        run.complete("labels", [part], {"model_error": 1}, num_in=3)
