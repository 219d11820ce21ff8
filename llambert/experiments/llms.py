"""LLMs by shots, the paper's Table 1: each cell is a run's ingest, sample, annotate and parse; skipped if complete."""

from typing import Any

import pyarrow as pa

from llambert import engines, markdown, schema
from llambert.annotation.responses import NUM_FOUND
from llambert.errors import InputError
from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.experiment_recipe import LlmComparison
from llambert.experiments.sources import count_equal_labels
from llambert.run import Run, open_run
from llambert.stages import parse as parse_stage
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.parse import parse
from llambert.stages.sample import sample

COLUMNS = pa.schema(
    [
        *schema.METRICS,
        pa.field("num_shots", pa.int64(), nullable=False),
        pa.field("num_records", pa.int64(), nullable=False),
    ]
)


def run_llms(experiment: LlmComparison) -> pa.Table:
    """Rows with ``COLUMNS``: for each LLM and number of shots ``accuracy`` (of the answers that could be parsed),
    ``parse_rate`` (both with Wilson's interval) and ``inference_seconds`` (of annotating, on the clock).

    The stages are parallel, and interrupted ones resume; records that have an answer are not asked about again.
    """
    runs = {
        (name, shots): _run(experiment, name, shots) for name, llm in experiment.llms.items() for shots in llm.shots
    }
    for run in runs.values():  # every fault of a recipe before the first question
        engines.check(run.recipe.annotator, run.task)
        parse_stage.check(run)
    rows: list[dict[str, Any]] = []
    for (name, shots), run in runs.items():
        ingest(run)
        sample(run)
        annotate(run)
        parse(run)
        rows += _figures(run, name, shots)
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def page(experiment: LlmComparison, table: pa.Table) -> str:
    """The table as Markdown, the paper's accuracies below it."""
    figures = {(row["model"], row["num_shots"], row["metric"]): row for row in table.to_pylist()}
    rows = []
    for name, shots in _cells(experiment):
        accuracy, rate = figures.get((name, shots, "accuracy")), figures[name, shots, "parse_rate"]
        seconds = f"{figures[name, shots, 'inference_seconds']['value']:.1f}"
        rows.append([name, f"{shots}", _percent(accuracy), _percent(rate), seconds, f"{rate['num_records']:,}"])
    header = ["LLM", "shots", "accuracy %", "parse rate %", "inference time s", "records"]
    lines = [f"# {experiment.name}", "", "Accuracy of the parsed answers against gold labels; 95 % intervals.", ""]
    lines += markdown.table(header, rows)
    if experiment.paper is not None:
        lines += ["", "The paper, accuracy %:", ""]
        theirs = paper.facts()[experiment.paper]["llm_accuracy"]
        numbers = sorted({int(shots) for by_shots in theirs.values() for shots in by_shots})
        table_rows = [
            [name, *(f"{by_shots[str(n)]:.2f}" if str(n) in by_shots else "" for n in numbers)]
            for name, by_shots in theirs.items()
        ]
        lines += markdown.table(["LLM", *(f"{n}-shot" for n in numbers)], table_rows)
    return "\n".join(lines) + "\n"


def _cells(experiment: LlmComparison) -> list[tuple[str, int]]:
    """Name and number of shots of each cell of the table."""
    return [(name, shots) for name, llm in experiment.llms.items() for shots in llm.shots]


def _run(experiment: LlmComparison, name: str, shots: int) -> Run:
    """The run of one cell; cells share a directory, so the corpus is read once."""
    storage = f"storage={experiment.results_folder}/run"
    return open_run(
        experiment.llms[name].recipe,
        [*experiment.settings, *experiment.llms[name].settings, f"annotator.num_shots={shots}", storage],
    )


def _figures(run: Run, name: str, shots: int) -> list[dict[str, Any]]:
    manifest = run.table("silver").require_manifest()
    silver = run.table("silver").read([schema.RECORD_ID, schema.LABEL])
    corpus = run.table("corpus").iter_tables([schema.RECORD_ID, schema.GOLD_LABEL])
    counts = [count_equal_labels(silver, part) for part in corpus]
    num_right, num_with_gold = (sum(column) for column in zip((0, 0), *counts, strict=True))
    if num_with_gold == 0 and silver.num_rows:
        raise InputError(f"{run.recipe.corpus.path}: no annotated record has a gold label to judge {name} by")
    about = {
        "task": run.task.name,
        "model": name,
        "training_labels": None,
        "num_train": None,
        "seed": run.recipe.annotator.seed,
        "num_shots": shots,
        "num_records": manifest.num_in,
    }
    responses = run.table("responses").require_manifest()
    seconds = responses.wall_seconds
    if responses.counts.get(NUM_FOUND):  # asked by another start, which took as long with the same replicas
        seconds = responses.busy_seconds / min(run.recipe.annotator.max_replicas, len(responses.parts))
    found: list[tuple[str, Estimate]] = [
        ("parse_rate", Estimate.share(manifest.num_kept, manifest.num_in)),
        ("inference_seconds", Estimate(seconds)),
    ]
    if num_with_gold:
        found.insert(0, ("accuracy", Estimate.share(num_right, num_with_gold)))
    return [{**about, "metric": metric, "value": one.value, "low": one.low, "high": one.high} for metric, one in found]


def _percent(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{100 * row['value']:.2f} ({100 * row['low']:.2f}–{100 * row['high']:.2f})"
