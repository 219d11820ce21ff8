"""One experiment from its recipe to its page: what ``jobs/experiments.py`` runs."""

import pyarrow as pa

from llambert.experiments import error_analysis, llms, pages
from llambert.experiments.cell_tasks import run_cells
from llambert.experiments.cells import CellStore
from llambert.experiments.claims import findings
from llambert.experiments.experiment_recipe import AnyExperiment, ErrorAnalysis, Llms, Trainings
from llambert.experiments.figures import figure
from llambert.experiments.grids import Place, places
from llambert.experiments.output import write_results
from llambert.experiments.results import Results, metrics_table
from llambert.experiments.sources import read_labels


def run_experiment(experiment: AnyExperiment) -> str:
    """Compute what is not stored yet, write the results, and return the page.

    What a killed or failed one has stored stays; it is shown as half done where the job can still say so.
    """
    match experiment:
        case Llms():
            table = llms.ask(experiment)
            page = llms.page(experiment, table)
            figures: dict[str, bytes] = {}
        case ErrorAnalysis():
            page, table = _error_analysis(experiment)
            figures = {}
        case Trainings():
            return _trainings(experiment)
    write_results(experiment, page, table, figures)
    return page


def _trainings(experiment: Trainings) -> str:
    labels = read_labels(experiment.data)
    wanted = places(experiment, labels)
    store = CellStore(f"{experiment.storage.rstrip('/')}/cells")
    try:
        run_cells([place.cell for place in wanted], labels, store, experiment)
    finally:
        page = _write(experiment, wanted, store, labels.num_seen)
    return page


def _write(experiment: Trainings, wanted: list[Place], store: CellStore, num_seen: int) -> str:
    stored = {place.cell.fingerprint: store.get(place.cell) for place in wanted}
    found = [(place, cell) for place in wanted if (cell := stored[place.cell.fingerprint]) is not None]
    results = Results(found, len(wanted), num_seen)
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
