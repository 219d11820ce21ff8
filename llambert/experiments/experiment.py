"""One experiment from its recipe to its page: what ``jobs/experiments.py`` runs."""

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from llambert.experiments import error_analysis, llms, pages
from llambert.experiments.cell_tasks import run_cells
from llambert.experiments.cells import CellStore
from llambert.experiments.claims import findings
from llambert.experiments.experiment_recipe import AnyExperiment, AnyTraining, ErrorAnalysis, Experiment, LlmComparison
from llambert.experiments.figures import figure
from llambert.experiments.grids import grid_entries
from llambert.experiments.results import Results, metrics_table
from llambert.experiments.sources import read_labels
from llambert.storage.atomic import write_atomically
from llambert.storage.locations import create_private_folder, open_filesystem


def run_experiment(experiment: AnyExperiment) -> str:
    """Compute what is not stored yet, write the results, and return the page.

    An experiment that is interrupted or fails keeps what it has stored; its page then says that it is half done.
    """
    create_private_folder(experiment.storage)
    match experiment:
        case LlmComparison():
            table = llms.run_llms(experiment)
            page = llms.page(experiment, table)
        case ErrorAnalysis():
            page, table = _error_analysis(experiment)
        case _:
            return _train(experiment)
    _write_results(experiment, page, table)
    return page


def _train(experiment: AnyTraining) -> str:
    labels = read_labels(experiment.data)
    entries = grid_entries(experiment, labels)
    store = CellStore(f"{experiment.storage.rstrip('/')}/cells")
    try:
        run_cells([entry.cell for entry in entries], labels, store, experiment)
    finally:
        stored = {entry.cell.fingerprint: store.get(entry.cell) for entry in entries}
        found = [(entry, cell) for entry in entries if (cell := stored[entry.cell.fingerprint]) is not None]
        results = Results(found, len(entries), labels.test_records.labels, labels.num_overlapping)
        images = figure(experiment, results)
        page = pages.page(experiment, results, findings(experiment, results), "figure.svg" if images else None)
        _write_results(experiment, page, metrics_table(results, experiment), images)
    return page


def _write_results(experiment: Experiment, page: str, table: pa.Table, images: Mapping[str, bytes] = {}) -> None:
    """Write ``results.md``, ``results.parquet``, ``results.csv`` and ``figure.*``, each whole."""
    parquet, csv = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    pacsv.write_csv(table, csv)
    files = {"results.md": page.encode(), "results.parquet": parquet.getvalue(), "results.csv": csv.getvalue()}
    files |= {f"figure.{kind}": content for kind, content in images.items()}
    filesystem, folder = open_filesystem(experiment.results_folder)
    for name, content in files.items():
        write_atomically(filesystem, f"{folder}/{name}", content)


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
