"""One experiment from its recipe to its page: what ``jobs/experiments.py`` runs."""

import pyarrow as pa

from llambert.experiments import error_analysis, llms, pages
from llambert.experiments.cell_tasks import run_cells
from llambert.experiments.cells import CellStore
from llambert.experiments.claims import findings
from llambert.experiments.experiment_recipe import (
    AnyExperiment,
    AnyTraining,
    ErrorAnalysis,
    LlmComparison,
    TrainingExperiment,
)
from llambert.experiments.figures import figure
from llambert.experiments.grids import GridEntry, grid_entries
from llambert.experiments.output import write_results
from llambert.experiments.results import Results, metrics_table
from llambert.experiments.sources import read_labels


def run_experiment(experiment: AnyExperiment) -> str:
    """Compute what is not stored yet, write the results, and return the page.

    What a killed or failed one has stored stays; it is shown as half done where the job can still say so.
    """
    match experiment:
        case LlmComparison():
            table = llms.run_llms(experiment)
            page = llms.page(experiment, table)
            figures: dict[str, bytes] = {}
        case ErrorAnalysis():
            page, table = _error_analysis(experiment)
            figures = {}
        case TrainingExperiment():
            return _trainings(experiment)
    write_results(experiment, page, table, figures)
    return page


def _trainings(experiment: AnyTraining) -> str:
    labels = read_labels(experiment.data)
    wanted = grid_entries(experiment, labels)
    store = CellStore(f"{experiment.storage.rstrip('/')}/cells")
    try:
        run_cells([entry.cell for entry in wanted], labels, store, experiment)
    finally:
        page = _write(experiment, wanted, store, labels.num_overlapping)
    return page


def _write(experiment: AnyTraining, wanted: list[GridEntry], store: CellStore, num_overlapping: int) -> str:
    stored = {entry.cell.fingerprint: store.get(entry.cell) for entry in wanted}
    found = [(entry, cell) for entry in wanted if (cell := stored[entry.cell.fingerprint]) is not None]
    results = Results(found, len(wanted), num_overlapping)
    drawn = figure(experiment, results)
    page = pages.page(experiment, results, findings(experiment, results), "figure.svg" if drawn else None)
    write_results(experiment, page, metrics_table(results, experiment), drawn)
    return page


def _error_analysis(experiment: ErrorAnalysis) -> tuple[str, pa.Table]:
    counts = {name: error_analysis.count_answers(one) for name, one in experiment.answers.items()}
    rows = [
        {"name": name, "model": model, "person": person, "num_records": num}
        for name, by_model in counts.items()
        for model, by_person in by_model.items()
        for person, num in by_person.items()
    ]
    shown = counts | (pages.paper_cross_tables() if experiment.paper == "imdb" else {})
    return f"# {experiment.name}\n\n{pages.cross_tables(shown)}", pa.Table.from_pylist(rows)
