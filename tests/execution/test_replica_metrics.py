"""What a unit of work leaves in the log, outside Ray; the counters over HTTP are tested with the stages."""

import json
import logging

from ray._common.formatters import JSONFormatter

from llambert.execution.replica_metrics import ReplicaMetrics


def test_a_unit_of_work_is_a_log_line_with_run_stage_and_part_as_fields(caplog):
    with caplog.at_level(logging.INFO, "llambert"):
        ReplicaMetrics("films", "label").add({"num_records": 3}, 0.25, "part-7.parquet")
    (record,) = caplog.records
    line = json.loads(JSONFormatter().format(record))
    fields = {name: line[name] for name in ("run", "stage", "part", "num_records", "busy_seconds", "message")}
    assert fields == {
        "run": "films",
        "stage": "label",
        "part": "part-7.parquet",
        "num_records": 3,
        "busy_seconds": 0.25,
        "message": "label: part-7.parquet is committed",
    }


def test_a_run_of_any_name_is_an_ascii_tag_as_ray_wants_it(caplog):
    with caplog.at_level(logging.INFO, "llambert"):
        ReplicaMetrics("file:///labels/\u00e9t\u00e9 \udce9", "label").add({}, 0.0)
    (record,) = caplog.records
    assert record.run == "file:///labels/\\xe9t\\xe9 \\udce9"
