"""Table 1 with a tiny LLM: each row is a run of its own settings, asked once, judged by gold labels."""

import csv

import pyarrow as pa
import pytest
import yaml

from llambert import schema
from llambert.evaluation.metrics import Estimate
from llambert.experiments.experiment import run_experiment
from llambert.experiments.experiment_recipe import Llm, LlmComparison
from llambert.experiments.llms import COLUMNS, page
from llambert.run import open_run
from tests.fixtures.tiny_llm import save_tiny_llm


def test_the_page_has_a_row_for_each_llm_and_number_of_shots_and_the_papers_below():
    llms = {"tiny": Llm(recipe="recipe.yaml", shots=(0, 1))}
    experiment = LlmComparison(name="llms", experiment="llms", paper="imdb", llms=llms)
    rows = []
    for shots, num_right, num_parsed in ((0, 60, 80), (1, 0, 0)):
        figures = {"parse_rate": Estimate.share(num_parsed, 100), "inference_seconds": Estimate(12.34)}
        if num_parsed:
            figures["accuracy"] = Estimate.share(num_right, num_parsed)
        for metric, one in figures.items():
            values = {"metric": metric, "value": one.value, "low": one.low, "high": one.high}
            rows.append({"task": "reviews", "model": "tiny", "num_shots": shots, "num_records": 100, **values})
    shown = page(experiment, pa.Table.from_pylist(rows, schema=COLUMNS))
    # Wilson's intervals of 60 of 80 and 80 of 100, as published.
    assert "| tiny | 0 | 75.00 (64.52–83.19) | 80.00 (71.12–86.66) | 12.3 | 100 |" in shown
    assert "| tiny | 1 |  | 0.00 (0.00–3.70) | 12.3 | 100 |" in shown
    assert "| Llama-2-7b-chat | 75.28 | 89.77 | 87.27 |" in shown
    assert "| Llama-2-70b-chat | 95.39 | 95.33 |  |" in shown


@pytest.mark.slow
def test_rows_are_the_runs_own_figures_and_a_second_start_asks_nothing(tmp_path, local_ray):
    with (tmp_path / "films.csv").open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["id", "text", "gold"])
        lines.writerows([n, f"A dull mess, number {n}.", "negative" if n % 4 else "positive"] for n in range(40))
    recipe = {
        "name": "films",
        "task": "reviews",
        "corpus": {
            "path": str(tmp_path / "films.csv"),
            "columns": {"text": "text", "record_id": "id", "gold_label": "gold"},
        },
        "annotator": {
            "model": str(save_tiny_llm(tmp_path / "llm")),
            "dtype": "float32",
            "prompt": "completion",
            "mode": "score",
            "num_records": 30,
        },
        "classifier": {"model": str(tmp_path / "llm")},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    experiment = LlmComparison(
        name="llms",
        experiment="llms",
        storage=str(tmp_path / "experiments"),
        llms={"tiny": Llm(recipe=str(tmp_path / "recipe.yaml"), shots=(0, 2))},
    )
    shown = run_experiment(experiment)
    responses = tmp_path / "experiments/llms/run/responses"
    before = {path: path.stat().st_mtime_ns for path in responses.rglob("*.parquet")}
    assert len({path.parent for path in before}) == 2  # a table for each number of shots
    assert run_experiment(experiment) == shown
    assert {path: path.stat().st_mtime_ns for path in responses.rglob("*.parquet")} == before
    run = open_run(str(tmp_path / "recipe.yaml"), ["annotator.num_shots=2", f"storage={tmp_path}/experiments/llms/run"])
    silver = run.table("silver").read([schema.RECORD_ID, schema.LABEL]).to_pylist()
    num_right = sum((row["label"] == "negative") == (int(row["record_id"]) % 4 > 0) for row in silver)
    assert f"| tiny | 2 | {100 * num_right / len(silver):.2f} (" in shown
    assert "| 100.00 (88.65–100.00) |" in shown
