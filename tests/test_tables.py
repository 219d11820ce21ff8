"""The declarations of tables agree with each other and with what a run has."""

import pytest

from llambert.run import Run
from llambert.tables import TABLES, TableGraph, TableSpec
from tests.fixtures.split_corpora import open_films

NAMES = [table.name for table in TABLES]


def test_every_table_lives_under_a_fingerprint_of_the_run(tmp_path):
    run = open_films(tmp_path)
    for table in TABLES:
        fingerprint = run.fingerprints[table.fingerprint] if table.name != "people" else run.table("people").fingerprint
        assert run.table(table.name).uri.endswith(f"/{table.name}/{fingerprint}")
        assert run.table(table.name).fingerprint == fingerprint
        assert run.table(table.name).schema == table.schema


def test_answers_that_runs_share_live_where_the_recipe_says_under_the_same_fingerprint(tmp_path):
    own, shared = open_films(tmp_path), open_films(tmp_path, f"annotator.answer_store={tmp_path}/store/")
    assert {name for name in NAMES if own.fingerprints.get(name) != shared.fingerprints.get(name)} == set()
    assert shared.table("answers").uri == f"{tmp_path}/store/{own.fingerprints['answers']}"
    assert shared.table("answers").schema == TABLES["answers"].schema
    assert shared.table("responses").uri == own.table("responses").uri


def test_tables_name_only_tables_that_are_declared_and_those_upstream_before_them():
    for place, table in enumerate(TABLES):
        named = {table.written_with, table.covers, table.fingerprint, table.model_files, table.refers_to}
        assert named - {None} <= set(NAMES)
        assert table.refers_to is None or TABLES[table.refers_to].is_store
        assert set(table.upstream) <= set(NAMES[:place])
        if table.written_with:
            assert TABLES.leader(table.name).written_with is None
            assert not table.is_required
            assert not table.upstream


def test_two_tables_of_one_name_are_refused():
    with pytest.raises(AssertionError, match="one name"):
        TableGraph(*TABLES, TableSpec("labels", "label again"))


def test_tables_that_are_complete_only_together_are_found_from_each_of_them():
    assert TABLES.together("label_rejects") == TABLES.together("labels") == (TABLES["labels"], TABLES["label_rejects"])
    assert TABLES.together("duplicates")[0].name == "corpus"
    assert TABLES.together("report") == (TABLES["report"],)


def test_a_run_is_finished_with_the_tables_of_the_method():
    required = [table.name for table in TABLES if table.is_required]
    assert required == ["corpus", "sample", "responses", "silver", "checkpoint", "labels"]
    assert list(TABLES["report"].upstream) == required


@pytest.mark.parametrize(
    ("regime", "trained_on", "needed"),
    [
        ("gold", ("corpus",), {"corpus", "checkpoint", "labels"}),
        ("silver", ("silver",), {"corpus", "sample", "responses", "silver", "checkpoint", "labels"}),
        ("silver_extra", ("silver",), {"corpus", "sample", "responses", "silver", "checkpoint", "labels"}),
        ("combined", ("silver", "corpus"), {"corpus", "sample", "responses", "silver", "checkpoint", "labels"}),
    ],
)
def test_the_regime_says_which_tables_are_trained_on_and_which_are_needed(tmp_path, regime, trained_on, needed):
    run = open_films(tmp_path)
    classifier = run.recipe.classifier.model_copy(update={"regime": regime})
    recipe = run.recipe.model_copy(update={"classifier": classifier})
    assert TABLES.upstream("checkpoint", recipe) == trained_on
    assert TABLES["checkpoint"].reads_gold(recipe) == ("corpus" in trained_on)
    assert TABLES.needed(recipe) == needed


def test_what_is_made_from_a_table_is_downstream_of_it():
    assert [table.name for table in TABLES.downstream("checkpoint")] == [
        "checkpoint",
        "labels",
        "labels_by_label",
        "certification",
        "certification_responses",
        "certificate",
        "deferred",
        "escalated",
        "decisions",
        "decisions_by_label",
        "report",
    ]
    assert [table.name for table in TABLES.downstream("sample")][:3] == ["sample", "responses", "silver"]


def test_a_table_that_is_declared_has_a_fingerprint_of_what_it_is_made_from(tmp_path):
    run = open_films(tmp_path)
    more = TableGraph(
        *TABLES, TableSpec("lengths", "measure", upstream=("labels",)), TableSpec("sums", "measure", section="label")
    )
    declared = Run(run.recipe, run.task, more)
    assert {name: declared.fingerprints[name] for name in run.fingerprints} == run.fingerprints
    changed = run.recipe.label.model_copy(update={"probabilities": True})
    other = Run(run.recipe.model_copy(update={"label": changed}), run.task, more)
    for name in ("lengths", "sums"):
        assert other.fingerprints[name] != declared.fingerprints[name]
