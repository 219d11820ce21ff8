"""LLMs by shots, the paper's Table 1: each cell is a run's ingest, annotate and parse, skipped where complete."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llambert import engines, markdown, schema
from llambert.errors import InputError
from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.experiment_recipe import LlmComparison
from llambert.experiments.output import experiment_folder
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

    The stages are parallel and go on record by record where they were killed; what is complete is not asked again.
    """
    runs = {
        (name, shots): _run(experiment, name, shots) for name in experiment.llms for shots in _shots(experiment, name)
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
    for name in experiment.llms:
        for shots in _shots(experiment, name):
            accuracy, rate = figures.get((name, shots, "accuracy")), figures[name, shots, "parse_rate"]
            seconds = figures[name, shots, "inference_seconds"]
            rows.append(
                [
                    name,
                    f"{shots}",
                    _percent(accuracy),
                    _percent(rate),
                    f"{seconds['value']:.1f}",
                    f"{rate['num_records']:,}",
                ]
            )
    header = ["LLM", "shots", "accuracy %", "parse rate %", "inference time s", "records"]
    lines = [f"# {experiment.name}", "", "Accuracy of the parsed answers against gold labels; 95 % intervals.", ""]
    lines += markdown.table(header, rows)
    if experiment.paper is not None:
        lines += ["", "The paper, accuracy %:", ""]
        theirs = paper.facts()[experiment.paper]["llm_accuracy"]
        numbers = sorted({int(shots) for by_shots in theirs.values() for shots in by_shots})
        table_rows = [
            [name, *(_paper_cell(by_shots.get(str(n))) for n in numbers)] for name, by_shots in theirs.items()
        ]
        lines += markdown.table(["LLM", *(f"{n}-shot" for n in numbers)], table_rows)
    return "\n".join(lines) + "\n"


def _shots(experiment: LlmComparison, name: str) -> tuple[int, ...]:
    return experiment.llms[name].shots


def _run(experiment: LlmComparison, name: str, shots: int) -> Run:
    """The run of one cell; cells share a directory, so the corpus is read once."""
    storage = f"storage={experiment_folder(experiment)}/run"
    return open_run(
        experiment.llms[name].recipe,
        [*experiment.settings, *experiment.llms[name].settings, f"annotator.num_shots={shots}", storage],
    )


def _figures(run: Run, name: str, shots: int) -> list[dict[str, Any]]:
    manifest = run.table("silver").require_manifest()
    silver = run.table("silver").read([schema.RECORD_ID, schema.LABEL])
    gold = _gold(run, silver)
    num_right = pc.sum(pc.equal(silver[schema.LABEL], gold)).as_py() or 0
    num_with_gold = len(gold) - gold.null_count
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
    seconds = run.table("responses").require_manifest().wall_seconds
    found: list[tuple[str, Estimate]] = [
        ("parse_rate", Estimate.share(manifest.num_kept, manifest.num_in)),
        ("inference_seconds", Estimate(seconds)),
    ]
    if num_with_gold:
        found.insert(0, ("accuracy", Estimate.share(num_right, num_with_gold)))
    return [{**about, "metric": metric, "value": one.value, "low": one.low, "high": one.high} for metric, one in found]


def _gold(run: Run, silver: pa.Table) -> pa.ChunkedArray:
    """Gold labels of the silver records, in their order; null where there is none."""
    ids = silver[schema.RECORD_ID].combine_chunks()
    found = [schema.CORPUS.empty_table().select([schema.RECORD_ID, schema.GOLD_LABEL])]
    for part in run.table("corpus").iter_tables([schema.RECORD_ID, schema.GOLD_LABEL]):
        found.append(part.filter(pc.is_in(part[schema.RECORD_ID], ids)).cast(found[0].schema))
    table = pa.concat_tables(found).combine_chunks()
    return pa.chunked_array(
        [table[schema.GOLD_LABEL].combine_chunks().take(pc.index_in(ids, table[schema.RECORD_ID].combine_chunks()))]
    )


def _percent(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{100 * row['value']:.2f} ({100 * row['low']:.2f}–{100 * row['high']:.2f})"


def _paper_cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
