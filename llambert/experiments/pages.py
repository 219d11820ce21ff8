"""The results of an experiment as Markdown: the table beside the paper's, the findings in words, the time."""

from collections.abc import Mapping, Sequence

from llambert import markdown
from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.claims import Finding
from llambert.experiments.experiment_recipe import AnyTraining, LabelCount, Mislabel, Regimes
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Column, Results
from llambert.planning.costs import format_duration

_TITLES = {"gold": "gold", "silver": "silver", "silver_extra": "silver, extra too", "combined": "silver, then gold"}


def page(experiment: AnyTraining, results: Results, found: Sequence[Finding], figure: str | None) -> str:
    """The whole page. ``figure``: the name of its picture."""
    num_trainings = len({entry.cell.fingerprint for entry, _ in results.found})
    num_seeds = len({entry.seed for entry, _ in results.found})
    over = (
        f", mean over {num_seeds} seeds with its 95 % interval for other seeds (Student's t)"
        if num_seeds > 1
        else ", one seed"
    )
    lines = [f"# {experiment.name}", ""]
    if (num_found := len(results.found)) < results.num_places:
        lines += [f"**Half done: {num_found} of {results.num_places} cells.** Run the job again to resume.", ""]
    lines += [f"Accuracy in per cent on the gold test records{over}.", "", *_tables(experiment, results), ""]
    if num := results.num_overlapping:
        lines += [f"{num:,} test records were left out: their text or ID is among the training records.", ""]
    if figure:
        lines += [f"![{experiment.name}]({figure})", ""]
    gpus = f" and {experiment.gpus_per_cell:g} GPU" if experiment.gpus_per_cell else ""
    lines += [
        "## What the paper says, and what came out",
        "",
        *(f"- **{one.verdict}**: {one.claim}. {one.text[:1].upper()}{one.text[1:]}." for one in found),
        "",
        "Confirmed and contradicted: the 95 % interval of the difference, for other seeds and other test records, lies "
        "wholly on one side; open: it does not. The intervals of the table leave the choice of test records out.",
        "",
        f"{num_trainings} trainings of {format_duration(results.seconds())} together; "
        f"each on {experiment.cpus_per_cell:g} CPU{gpus}.",
    ]
    return "\n".join(lines) + "\n"


def _tables(experiment: AnyTraining, results: Results) -> list[str]:
    if isinstance(experiment, Regimes):
        return _regimes(experiment, results)
    lines = _by_column(experiment, results.curves())
    if theirs := paper.curves(experiment):
        lines += ["", "The paper, roberta-large on IMDb:", "", *_by_column(experiment, theirs)]
    return lines


def _regimes(experiment: Regimes, results: Results) -> list[str]:
    theirs = paper.encoder_accuracies(experiment.paper) if experiment.paper else {}
    accuracies = results.curves() | {f"{encoder} (the paper)": row for encoder, row in theirs.items()}
    rows = [[name, *(_percent(row.get(regime)) for regime in experiment.regimes)] for name, row in accuracies.items()]
    return markdown.table(["encoder", *(_TITLES[regime] for regime in experiment.regimes)], rows)


def _by_column(experiment: LabelCount | Mislabel, curves: Mapping[str, Mapping[Column, Estimate]]) -> list[str]:
    """A column for each curve, a row for each number of labels or share of wrong ones."""
    is_count = isinstance(experiment, LabelCount)
    title, names = ("labels", ["silver", "gold"]) if is_count else ("wrong labels", [END_TO_END, ANNOTATOR, FROZEN])
    present = [name for name in names if name in curves]
    rows = [
        [f"{x:,}" if is_count else f"{100 * x:g} %", *(_percent(curves[name].get(x)) for name in present)]
        for x in sorted({x for name in present for x in curves[name]}, key=float)
    ]
    return markdown.table([title, *present], rows)


def cross_tables(counts: dict[str, dict[str, dict[str, int]]]) -> str:
    """Table name -> model label -> person's label -> records, as one Markdown page."""
    lines = []
    for name, by_model in counts.items():
        persons = list(next(iter(by_model.values())))
        total = sum(sum(row.values()) for row in by_model.values())
        lines += [f"### {markdown.escape(name)}", "", f"{total:,} records with a person's answer.", ""]
        rows = [[f"model: {model}", *(f"{row[person]:,}" for person in persons)] for model, row in by_model.items()]
        lines += [*markdown.table(["", *(f"person: {person}" for person in persons)], rows), ""]
    return "\n".join(lines)


def paper_cross_tables() -> dict[str, dict[str, dict[str, int]]]:
    """The paper's Table 3 in the same shape."""
    found = paper.facts()["imdb"]["error_analysis"]
    persons = [name.removeprefix("human_") for name in found["columns"]]
    return {
        f"{regime} (the paper)": {
            name.removeprefix("model_"): dict(zip(persons, counts, strict=True))
            for name, counts in found[regime].items()
        }
        for regime in ("silver", "combined")
    }


def _percent(accuracy: Estimate | None) -> str:
    if accuracy is None:
        return ""
    value = f"{100 * accuracy.value:.2f}"
    if accuracy.low is None:
        return f"{value} (one seed)" if accuracy.num == 1 else value
    return f"{value} ± {100 * (accuracy.value - accuracy.low):.2f}"
