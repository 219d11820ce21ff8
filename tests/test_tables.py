"""The declarations of tables agree with each other and with what a run has."""

from llambert.tables import BY_NAME, REQUIRED, TABLES, together
from tests.annotation.test_splits import open_films


def test_every_table_lives_under_a_fingerprint_of_the_run(tmp_path):
    run = open_films(tmp_path)
    assert len(BY_NAME) == len(TABLES)
    for table in TABLES:
        assert run.table(table.name).uri.endswith(f"/{table.name}/{run.fingerprints[table.fingerprint]}")
        assert run.table(table.name).schema == table.schema


def test_tables_name_only_tables_that_are_declared():
    for table in TABLES:
        assert {table.written_with, table.covers, table.fingerprint} - {None} <= BY_NAME.keys()
        if table.written_with:
            assert BY_NAME[table.written_with].written_with is None
            assert not table.is_required


def test_tables_that_are_complete_only_together_are_found_from_each_of_them():
    assert together("label_rejects") == together("labels") == ("labels", "label_rejects")
    assert together("duplicates")[0] == "corpus"
    assert together("report") == ("report",)


def test_a_run_is_finished_with_the_tables_of_the_method():
    assert REQUIRED == ("corpus", "sample", "responses", "silver", "checkpoint", "labels")
