"""Where an experiment's results go: ``storage/name`` on any filesystem, each file whole."""

import io

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from llambert.experiments.experiment_recipe import Experiment
from llambert.storage.atomic import write_atomically
from llambert.storage.locations import open_filesystem

PAGE = "results.md"


def write_results(experiment: Experiment, page: str, table: pa.Table, figures: dict[str, bytes]) -> str:
    """Write ``results.md``, ``results.parquet``, ``results.csv`` and ``figure.*``; the page's place."""
    parquet, csv = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    pacsv.write_csv(table, csv)
    files = {PAGE: page.encode(), "results.parquet": parquet.getvalue(), "results.csv": csv.getvalue()}
    files |= {f"figure.{kind}": content for kind, content in figures.items()}
    filesystem, folder = open_filesystem(experiment_folder(experiment))
    for name, content in files.items():
        write_atomically(filesystem, f"{folder}/{name}", content)
    return f"{experiment_folder(experiment)}/{PAGE}"


def experiment_folder(experiment: Experiment) -> str:
    """Of its results; cells are beside it, shared by the experiments of one storage."""
    return f"{experiment.storage.rstrip('/')}/{experiment.name}"
