"""Status tells complete, working, stopped and not started apart, and what is left."""

from datetime import UTC, datetime, timedelta

from llambert import schema
from llambert.integrity.status import render, status, table_status
from llambert.storage.manifest import Manifest
from tests.fixtures.label_runs import make_run


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
    labels.write_manifest(
        Manifest(
            stage="label",
            fingerprint="f",
            num_in=1000,
            num_kept=998,
            num_rejected={"model_error": 2},
            wall_seconds=10.0,
        )
    )
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


def test_gold_values_that_match_nothing_are_said_below_the_tables(tmp_path):
    run = make_run(tmp_path)
    counts = {"num_gold": 1, "num_unknown_gold": 3, "unknown_gold.meh": 3}
    run.table("corpus").write_manifest(
        Manifest(stage="ingest", fingerprint="f", num_in=4, num_kept=4, wall_seconds=1.0, counts=counts)
    )
    assert "corpus: 3 of 4 gold values (75.0%)" in render(status(run))
