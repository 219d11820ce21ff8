"""Status tells complete, working, stopped and not started apart, and what is left."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from llambert import schema
from llambert.integrity.status import render, status, table_status
from tests.fixtures.label_runs import make_run
from tests.fixtures.stored_responses import store_responses


def progress(age_s: float = 0, **values) -> dict:
    updated_at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    return {"done": 250, "total": 1000, "wall_seconds": 50.0, "busy_seconds": 40.0, "updated_at": updated_at, **values}


def test_a_run_that_was_never_started_says_so_and_nothing_is_written(tmp_path):
    run = make_run(tmp_path)
    tables = status(run)
    assert [table.name for table in tables] == ["corpus", "responses", "silver", "checkpoint", "labels", "report"]
    assert {table.state for table in tables} == {"not started"}
    assert not (tmp_path / "run").exists()


def test_a_table_at_work_has_a_rate_and_the_time_left(tmp_path):
    labels = make_run(tmp_path).table("labels")
    labels.commit_part("part-0.parquet", schema.LABELS.empty_table())
    labels.write_progress(progress())
    found = table_status("labels", labels)
    assert (found.state, found.done, found.total, found.num_parts) == ("working", 250, 1000, 1)
    assert found.rate == 5.0
    assert found.eta_seconds == 150.0


def test_a_job_that_died_silently_is_stopped_and_still_says_how_far_it_came(tmp_path):
    labels = make_run(tmp_path).table("labels")
    labels.write_progress(progress(age_s=3600))
    found = table_status("labels", labels)
    assert (found.state, found.done, found.total) == ("stopped", 250, 1000)


def test_a_job_that_failed_is_stopped_at_once_and_the_message_is_shown(tmp_path):
    run = make_run(tmp_path)
    labels = run.table("labels")
    labels.write_progress(progress(num_failures=2, failure="RuntimeError: part-00000 is damaged"))
    found = table_status("labels", labels)
    assert (found.state, found.num_failures) == ("stopped", 2)
    assert "labels failed: RuntimeError: part-00000 is damaged" in render(status(run))


def test_a_job_that_was_stopped_says_by_what_and_is_no_failure(tmp_path):
    run = make_run(tmp_path)
    labels = run.table("labels")
    labels.write_progress(progress(stopped_by="SIGTERM"))
    found = table_status("labels", labels)
    assert (found.state, found.num_failures, found.failure) == ("stopped", 0, None)
    assert "labels: stopped by SIGTERM; start the same command again to resume" in render(status(run))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"done": "many"}', '{"done": 1, "updated_at": "soon"}'])
def test_damaged_progress_is_no_progress(tmp_path, content):
    labels = make_run(tmp_path).table("labels")
    labels.write_progress(progress())
    Path(labels.path("progress.json")).write_text(content)
    assert table_status("labels", labels).state == "not started"


def test_a_damaged_manifest_is_a_state_of_its_table_and_says_what_to_do(tmp_path):
    run = make_run(tmp_path)
    run.table("labels").complete("label", [])
    Path(run.table("labels").path("manifest.json")).write_text("[")
    shown = render(status(run))
    assert "labels: " in shown
    assert "manifest.json is damaged: 1 faults; `llambert repair` makes it again" in shown


def test_parts_without_progress_are_work_that_stopped(tmp_path):
    labels = make_run(tmp_path).table("labels")
    labels.commit_part("part-0.parquet", schema.LABELS.empty_table())
    assert table_status("labels", labels).state == "stopped"


def test_nothing_done_yet_has_no_rate(tmp_path):
    labels = make_run(tmp_path).table("labels")
    labels.write_progress(progress(done=0))
    found = table_status("labels", labels)
    assert (found.rate, found.eta_seconds) == (None, None)
    assert found.state == "working"


def test_a_complete_table_says_so_whatever_its_progress_was(tmp_path):
    run = make_run(tmp_path)
    labels = run.table("labels")
    labels.write_progress(progress(failure="x"))
    labels.complete("label", [], {"model_error": 2}, num_kept=998, wall_seconds=10.0)
    found = table_status("labels", labels)
    assert (found.state, found.done, found.num_rejected, found.rate) == ("complete", 1000, 2, 100.0)


def test_the_rendering_is_a_plain_table_with_one_line_a_table(tmp_path):
    run = make_run(tmp_path)
    run.table("labels").write_progress(progress())
    lines = render(status(run)).splitlines()
    assert len(lines) == 7
    labels = next(line for line in lines if line.startswith("labels"))
    for shown in ("working", "250/1,000 records", "5.0/s", "2:30"):
        assert shown in labels
    assert "\x1b" not in "".join(lines)


def test_answers_are_kept_and_shown_in_their_place_once_there_are_any(tmp_path):
    run = make_run(tmp_path)
    store_responses(run, [{"record_id": "a"}, {"record_id": "b"}], (1, 2))
    tables = status(run)
    assert [table.name for table in tables][:3] == ["corpus", "answers", "responses"]
    assert (tables[1].state, tables[1].num_parts) == ("kept", 2)
    [line] = [line for line in render(tables).splitlines() if line.startswith("answers")]
    assert line.split() == ["answers", "kept", "2"]


def test_the_store_is_listed_once_and_no_part_of_it_is_read(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    store_responses(run, [{"record_id": "a"}])
    listed, list_folder = [], LocalFileSystem.ls

    def noted(self, path, *arguments, **options):
        listed.append(path)
        return list_folder(self, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", noted)
    store = run.table("answers").path()
    for name in run.table("answers").part_names():
        (Path(store) / name).write_text("junk")
    listed.clear()
    assert [table.state for table in status(run) if table.name == "answers"] == ["kept"]
    assert listed.count(store) == 1


def test_a_store_that_cannot_be_listed_is_damaged_and_says_what_to_do(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "answers").touch()
    [answers] = [table for table in status(run) if table.name == "answers"]
    assert answers.state == "damaged"
    assert "`llambert repair`" in render([answers])


def test_gold_values_that_match_nothing_are_said_below_the_tables(tmp_path):
    run = make_run(tmp_path)
    counts = {"num_gold": 1, "num_unknown_gold": 3, "unknown_gold.meh": 3}
    run.table("corpus").complete("ingest", [], num_kept=4, counts=counts)
    assert "corpus: 3 of 4 gold values (75.0%)" in render(status(run))


def test_labels_that_were_complete_for_an_earlier_generation_of_the_corpus_are_not_started_for_this_one(tmp_path):
    labels = make_run(tmp_path).table("labels")
    labels.commit_part("part-0.parquet", schema.LABELS.empty_table())
    labels.write_progress(progress(generation=labels.generation))
    assert table_status("labels", labels).state == "working"
    later = replace(labels, generation="another")
    assert (table_status("labels", later).state, table_status("labels", later).num_parts) == ("not started", 1)
