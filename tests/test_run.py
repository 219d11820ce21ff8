"""Fingerprints: what changes a draw changes the tables it decides, and no others; and what a manifest says of a run."""

import re
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from llambert import schema
from llambert.cli import app
from llambert.errors import Damaged
from llambert.run import open_run
from tests.fixtures.label_runs import filled_run
from tests.fixtures.split_corpora import open_films

UPSTREAM = ("sample", "responses", "silver", "checkpoint", "labels")

GUARANTEE = {"certification", "certification_responses", "certificate", "deferred", "escalated", "decisions"}
OF_LABELS = {*GUARANTEE, "plan", "report"}
"""Tables that are made of labels."""


def changed(first, second) -> set[str]:
    return {name for name, value in first.fingerprints.items() if second.fingerprints[name] != value}


def test_annotated_splits_decide_the_sample_and_what_follows_and_no_splits_are_as_before(tmp_path):
    plain, some = open_films(tmp_path), open_films(tmp_path, "annotator.splits=[train,extra]")
    assert changed(plain, some) == {*UPSTREAM, *OF_LABELS}
    assert changed(some, open_films(tmp_path, "annotator.splits=[extra, train, extra]")) == set()
    assert changed(some, open_films(tmp_path, "annotator.splits=[train]")) == {*UPSTREAM, *OF_LABELS}
    assert changed(plain, open_films(tmp_path, "annotator.splits=null")) == set()


def test_the_version_of_the_report_is_part_of_its_fingerprint_alone(tmp_path, monkeypatch):
    before = open_films(tmp_path)
    before.fingerprints  # noqa: B018  looked up before the change
    monkeypatch.setattr("llambert.run.REPORT_VERSION", 1000)
    assert changed(before, open_films(tmp_path)) == {"report"}


def test_where_answers_are_kept_changes_no_fingerprint(tmp_path):
    plain, other = open_films(tmp_path), open_films(tmp_path, f"annotator.answer_store={tmp_path / 'store'}")
    assert changed(plain, other) == set()
    assert changed(plain, open_films(tmp_path, "annotator.max_replicas=3")) == {"plan"}


def test_the_version_of_training_leaves_annotations_as_they_are(tmp_path, monkeypatch):
    before = open_films(tmp_path)
    before.fingerprints  # noqa: B018  looked up before the change
    monkeypatch.setattr("llambert.run.TRAINING_VERSION", 1000)
    assert changed(before, open_films(tmp_path)) == {"checkpoint", "labels", *OF_LABELS}


def test_a_head_in_float32_changes_what_models_of_16_bits_score_and_nothing_else(tmp_path, monkeypatch):
    settings = {
        "score": ["annotator.mode=score", "annotator.dtype=bfloat16"],
        "float32": ["annotator.mode=score", "annotator.dtype=float32"],
        "generate": ["annotator.mode=generate", "annotator.dtype=bfloat16"],
    }
    before = {name: open_films(tmp_path, *values) for name, values in settings.items()}
    for run in before.values():
        run.fingerprints  # noqa: B018  looked up before the change
    monkeypatch.setattr("llambert.annotation.questions.HALF_SCORE_VERSION", 1000)
    after = {name: changed(run, open_films(tmp_path, *settings[name])) for name, run in before.items()}
    assert after["score"] == {"answers", *UPSTREAM, *OF_LABELS} - {"sample"}
    assert (after["float32"], after["generate"]) == (set(), set())


@pytest.mark.parametrize(
    "setting",
    [
        "annotator.num_records=10",
        "annotator.seed=7",
        "annotator.num_shots=0",
        "annotator.splits=[train]",
        "corpus.rows_per_part=5",
    ],
)
def test_what_is_asked_is_not_how_it_is_answered(tmp_path, setting):
    plain, other = open_films(tmp_path), open_films(tmp_path, setting)
    assert "answers" not in changed(plain, other)
    assert {"responses", "silver"} <= changed(plain, other)


@pytest.mark.parametrize(
    "setting", ["mode=score", "dtype=float32", "max_model_len=64", "decoding.seed=3", "decoding.temperature=0.5"]
)
def test_how_it_is_answered_decides_the_answers_and_what_is_made_of_them(tmp_path, setting):
    plain, other = open_films(tmp_path), open_films(tmp_path, f"annotator.{setting}")
    assert changed(plain, other) == {"answers", *UPSTREAM, *OF_LABELS} - {"sample"}


@pytest.mark.parametrize("regime", ["gold", "silver_extra", "combined"])
def test_one_set_of_answers_serves_every_regime(tmp_path, regime):
    settings = ["annotator.splits=[train,extra,test]"]
    silver, other = open_films(tmp_path, *settings), open_films(tmp_path, *settings, f"classifier.regime={regime}")
    assert changed(silver, other) == {"checkpoint", "labels", *OF_LABELS}


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


@pytest.mark.parametrize("command", ["open", "status"])
@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it holds no commit"), (b"7a", "it holds no commit"), (b"\xff\xfe", "not UTF-8"), (None, "a folder")],
)
def test_a_damaged_commit_is_one_line_that_says_what_to_write(tmp_path, content, why, command):
    recipe = with_hub_name(tmp_path)
    file = tmp_path / "run/commits/model" / quote("org/encoder@main", safe="")
    file.parent.mkdir(parents=True)
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(Damaged, match=f"org.*encoder.*main is damaged: .*{why}.*; write the commit of org/encoder"):
        open_run(recipe)
    if command == "status":
        error = CliRunner().invoke(app, ["status", recipe]).exception
        assert isinstance(error, Damaged)
        assert "\n" not in str(error)


def test_a_commit_that_an_editor_wrote_is_read(tmp_path):
    recipe, commit = with_hub_name(tmp_path), "0123456789abcdef" * 2 + "01234567"
    file = tmp_path / "run/commits/model" / quote("org/encoder@main", safe="")
    file.parent.mkdir(parents=True)
    file.write_text(commit + "\n")
    assert open_run(recipe).recipe.classifier.revision == commit


def with_hub_name(folder) -> str:
    """A recipe whose classifier is of the hub."""
    open_films(folder, f"storage={folder}/other")
    path = folder / "hub.yaml"
    path.write_text(re.sub(r"classifier:.*", "classifier: {model: org/encoder}", (folder / "recipe.yaml").read_text()))
    return str(path)
