"""What an experiment came to as Markdown: the table beside the paper's, the findings in words, the time."""

from collections.abc import Sequence

from llambert import markdown
from llambert.evaluation.metrics import Estimate
from llambert.experiments import paper
from llambert.experiments.claims import Finding
from llambert.experiments.experiment_recipe import LabelCount, Mislabel, Regimes, Trainings
from llambert.experiments.grids import ANNOTATOR, END_TO_END, FROZEN
from llambert.experiments.results import Column, Results
from llambert.planning.costs import format_duration

NOTHING = ""
_TITLES = {
    "gold": "gold",
    "silver": "silver",
    "silver_extra": "silver, extra too",
    "combined": "silver, then gold",
}


def page(experiment: Trainings, results: Results, found: Sequence[Finding], figure: str | None) -> str:
    """The whole page. ``figure``: the name of its picture."""
    different = {place.cell.fingerprint: place.cell for place, _ in results.found}
    num_seeds = len({place.seed for place, _ in results.found})
    over = f", mean over {num_seeds} seeds with its 95 % interval (Student's t)" if num_seeds > 1 else ", one seed"
    lines = [f"# {experiment.name}", ""]
    if len(results.found) < results.num_places:
        lines += [f"**Half done: {len(results.found)} of {results.num_places} cells.** Run the job again to go on.", ""]
    lines += [
        f"Accuracy in per cent on the gold test records{over}.",
        "",
        *_tables(experiment, results),
        "",
    ]
    if results.num_seen:
        lines += [
            f"{results.num_seen:,} test records were left out: their text or ID is among the records to learn from.",
            "",
        ]
    if figure:
        lines += [f"![{experiment.name}]({figure})", ""]
    lines += ["## What the paper says, and what came out", ""]
    lines += [f"- **{one.verdict}**: {one.claim}. {_capital(one.text)}." for one in found]
    seconds = results.seconds()
    lines += [
        "",
        "Confirmed and contradicted: the 95 % interval over seeds lies wholly on one side; open: it does not.",
        "",
        f"{len(different)} trainings of {format_duration(seconds)} together; "
        f"each on {experiment.cpus_per_cell:g} CPU"
        f"{f' and {experiment.gpus_per_cell:g} GPU' if experiment.gpus_per_cell else ''}.",
    ]
    return "\n".join(lines) + "\n"


def _tables(experiment: Trainings, results: Results) -> list[str]:
    match experiment:
        case Regimes():
            return _regimes(experiment, results)
        case LabelCount():
            return _label_counts(results) + _paper_label_counts(experiment)
        case Mislabel():
            return _shares(results) + _paper_shares(experiment)
    raise AssertionError(f"no table for {type(experiment).__name__}")


def _regimes(experiment: Regimes, results: Results) -> list[str]:
    rows = [[row, *(_percent(results.mean(row, regime)) for regime in experiment.regimes)] for row in results.rows()]
    for encoder in paper.encoders(experiment.paper) if experiment.paper else []:
        cells = [paper.encoder_accuracy(experiment.paper or "", encoder, regime) for regime in experiment.regimes]
        rows.append([f"{encoder} (the paper)", *(_paper_cell(cell) for cell in cells)])
    return markdown.table(["encoder", *(_TITLES[regime] for regime in experiment.regimes)], rows)


def _label_counts(results: Results) -> list[str]:
    return _by_column(results, "labels", lambda count: f"{count:,}", ["silver", "gold"])


def _paper_label_counts(experiment: Trainings) -> list[str]:
    if experiment.paper is None:
        return []
    sizes = paper.facts()["imdb"]["data_size"]
    rows = [
        [f"{x:,}", *(f"{sizes[name][i]:.2f} ± {sizes[f'{name}_ci'][i]:.2f}" for name in ("silver", "gold"))]
        for i, x in enumerate(sizes["x"])
    ]
    return ["", "The paper, roberta-large on IMDb:", "", *markdown.table(["labels", "silver", "gold"], rows)]


def _shares(results: Results) -> list[str]:
    return _by_column(results, "wrong labels", lambda share: f"{100 * share:g} %", [END_TO_END, ANNOTATOR, FROZEN])


def _paper_shares(experiment: Trainings) -> list[str]:
    if experiment.paper is None:
        return []
    imdb = paper.facts()["imdb"]
    wrong = imdb["mislabel"]
    rows = [
        [f"{x:g} %", f"{wrong['end_to_end'][i]:.2f}", NOTHING, f"{wrong['frozen_encoder'][i]:.2f}"]
        for i, x in enumerate(wrong["x"])
    ]
    own = [f"{imdb['annotator_error_percent']:g} %", NOTHING, f"{imdb['encoder_accuracy']['roberta-large'][1]:.2f}"]
    place = sum(x < imdb["annotator_error_percent"] for x in wrong["x"])
    rows.insert(place, [*own, NOTHING])
    header = ["wrong labels", END_TO_END, ANNOTATOR, FROZEN]
    return ["", "The paper, roberta-large on IMDb:", "", *markdown.table(header, rows)]


def _by_column(results: Results, title: str, show, names: Sequence[str]) -> list[str]:  # type: ignore[no-untyped-def]
    there = [name for name in names if name in results.rows()]
    columns: set[Column] = {column for name in there for column in results.columns(name)}
    rows = [
        [show(column), *(_percent(results.mean(name, column)) for name in there)]
        for column in sorted(columns, key=float)
    ]
    return markdown.table([title, *there], rows)


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


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    if estimate.low is None:
        return f"{100 * estimate.value:.2f} (one seed)"
    return f"{100 * estimate.value:.2f} ± {100 * (estimate.value - estimate.low):.2f}"


def _paper_cell(cell: tuple[float, float | None] | None) -> str:
    if cell is None:
        return NOTHING
    value, half = cell
    return f"{value:.2f}" if half is None else f"{value:.2f} ± {half:.2f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
