import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from llambert import schema
from llambert.evaluation.evidence import read_evidence
from llambert.evaluation.suspects import find_suspects
from llambert.report.page import report
from tests.fixtures.synthetic_run import Plan, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A fifth of the silver labels is wrong, a tenth of the classifier's."""
    made = write_run(tmp_path_factory.mktemp("suspects"), Plan(num=3_000, num_annotated=1_500))
    report(made)
    return made


def test_suspects_are_wrong_far_more_often_than_random_picks(run):
    suspects = find_suspects(run, read_evidence(run))
    assert suspects.base_rate.value == pytest.approx(0.2, abs=0.04)
    # Independent mistakes: of labels that differ 0.2 * 0.9 are the annotator's fault, 0.8 * 0.1 the classifier's.
    assert suspects.precision.value == pytest.approx(0.18 / 0.26, abs=0.06)
    assert suspects.precision.bounds[0] > suspects.base_rate.bounds[1]
    assert suspects.num == sum(suspects.by_label.values()) == suspects.rows.num_rows


def test_the_list_lies_beside_the_report_surest_first_with_the_records_own_labels(run):
    table = run.table("report")
    rows = pq.read_table(table.path("suspects.parquet"))
    assert rows.schema.remove_metadata().equals(schema.SUSPECTS)
    scores = rows[schema.SCORE].to_numpy()
    assert (np.diff(scores) <= 0).all()
    given = {row["record_id"]: row["label"] for row in run.table("labels").read().to_pylist()}
    silver = {row["record_id"]: row["label"] for row in run.table("silver").read().to_pylist()}
    for row in rows.to_pylist():
        assert (row["label"], row["suggested_label"]) == (silver[row["record_id"]], given[row["record_id"]])
    assert rows.num_rows == sum(given[name] != label for name, label in silver.items())
    metrics = {row["metric"] for row in json.loads(table.filesystem.cat_file(table.path("metrics.json")))["metrics"]}
    assert {"silver_wrong", "silver_suspects_wrong"} <= metrics


def test_without_gold_suspects_are_listed_and_not_judged(tmp_path):
    suspects = find_suspects(made := write_run(tmp_path, Plan(gold=0.0)), read_evidence(made))
    assert suspects.num > 0
    assert (suspects.base_rate, suspects.precision, suspects.precision_at) == (None, None, {})


def test_other_prices_write_the_report_again(run, tmp_path):
    (tmp_path / "prices.yaml").write_text('as_of: "2031-05"\naccelerators: {B300: 9.5}\n')
    before = report(run).completed_at
    assert report(run).completed_at == before
    report(run, str(tmp_path / "prices.yaml"))
    assert run.table("report").read_manifest() is not None
