"""A whole experiment through Ray with a tiny encoder: stored once, gone on with after a kill, the same in the end."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from llambert.errors import InputError
from llambert.experiments.cell_tasks import run_cells
from llambert.experiments.cells import CellStore
from llambert.experiments.experiment import run_experiment
from llambert.experiments.grids import grid_entries
from llambert.experiments.sources import read_labels
from tests.fixtures.labelled_films import open_experiment, write_experiment

JOB = Path(__file__).parents[2] / "jobs" / "experiments.py"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def cell_files(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "experiments/cells").glob("*")}


def test_a_table_is_computed_once_and_its_cells_serve_the_next_experiment(folder):
    page = run_experiment(open_experiment(folder, "regimes", seeds=[0, 1]))
    assert "| encoder | gold | silver | silver, then gold |" in page
    before = cell_files(folder)
    assert [path.suffix for path in before] == [".json"] * 6  # weights were kept only while they were needed
    assert run_experiment(open_experiment(folder, "regimes", seeds=[0, 1])) == page
    assert cell_files(folder) == before
    rows = pq.read_table(folder / "experiments/regimes/results.parquet").to_pylist()
    assert {(row["row"], row["training_labels"], row["seed"]) for row in rows} == {
        ("encoder", regime, seed) for regime in ("gold", "silver", "combined") for seed in (0, 1, None)
    }
    # Another experiment, of which the gold cell of seed 0 is there: three more cells, and no other.
    counts = open_experiment(folder, "label_count", seeds=[0], silver_counts=[20, 60], gold_counts=[20, 40])
    assert "| 40 |" in run_experiment(counts)
    after = cell_files(folder)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    assert (folder / "experiments/label-count/figure.png").stat().st_size > 10_000


def test_a_combined_cell_is_what_one_training_of_both_phases_is(folder):
    experiment = open_experiment(folder, "regimes", seeds=[0])
    labels = read_labels(experiment.data)
    (combined,) = [entry.cell for entry in grid_entries(experiment, labels) if entry.column == "combined"]
    store = CellStore(str(folder / "experiments/cells"))
    run_cells([combined], labels, store, experiment)
    from llambert.experiments.cell_training import phases_of
    from llambert.training.encoder import load_encoder
    from llambert.training.loop import FineTuning

    encoder = load_encoder(combined.recipe, labels.categories)
    tuning = FineTuning(encoder, phases_of(combined, labels), combined.recipe, labels.categories)
    tuning.run()
    expected = tuning.predict(encoder.model, tuning.tokenized(labels.test_records))
    assert store.get(combined).probabilities == pytest.approx(expected, abs=1e-4)


def test_a_refused_cell_ends_the_job_in_one_line_and_the_others_stay(folder):
    silver = folder / "one_label.jsonl"
    rows = [{"record_id": f"s{n}", "text": "a good film", "label": "positive"} for n in range(30)]
    silver.write_text("\n".join(map(json.dumps, rows)))
    path = write_experiment(folder, "regimes", name="refused", seeds=[5])
    done = subprocess.run(
        [sys.executable, str(JOB), str(path), "--set", "data.silver.path=one_label.jsonl"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 2
    assert "all 30 training records have one label" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert (folder / "experiments/refused/results.md").exists()


def test_an_encoder_that_cannot_be_trained_is_refused_before_a_cell_is_begun(folder, monkeypatch):
    def begin():
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("llambert.experiments.cell_tasks.connect", begin)
    (folder / "no-encoder").mkdir(exist_ok=True)
    experiment = open_experiment(folder, "regimes", name="no-encoder", seeds=[9])
    labels = read_labels(experiment.data)
    cells = [entry.cell for entry in grid_entries(experiment, labels)]
    broken = cells[0].recipe.model_copy(update={"model": str(folder / "no-encoder")})
    store = CellStore(str(folder / "experiments/cells"))
    with pytest.raises(InputError, match=r"^classifier.model: .*no-encoder cannot be loaded"):
        run_cells([*cells[1:], replace(cells[0], recipe=broken)], labels, store, experiment)


def test_a_killed_job_goes_on_from_its_cells_and_states_to_the_same_table(tmp_path):
    fields = {"seeds": [0, 1], "regimes": ["gold", "silver"], "store_every_s": 0.2}
    slow = {"data.num_test": 20, "classifier.epochs": 60}
    path = write_experiment(tmp_path, "regimes", **fields)
    settings = [part for key, value in slow.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, str(JOB), str(path), *settings]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    cells = tmp_path / "experiments/cells"
    family = []
    try:
        deadline = time.monotonic() + 120
        while not (list(cells.glob("*.state")) and list(cells.glob("*.json"))) and job.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(signal.SIGKILL)
        job.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    before = cell_files(tmp_path)
    stored = {path: changed for path, changed in before.items() if path.suffix == ".json"}
    assert 0 < len(stored) < 4, "the kill came too early or too late"
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    after = cell_files(tmp_path)
    assert stored.items() <= after.items()
    assert [path.suffix for path in after] == [".json"] * 4
    undisturbed = write_experiment(tmp_path, "regimes", **fields, name="undisturbed")
    run = subprocess.run(
        [sys.executable, str(JOB), str(undisturbed), *settings, "--set", f"storage={tmp_path / 'other'}"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr
    for path in cells.glob("*.json"):
        ours, theirs = (json.loads(one.read_text()) for one in (path, tmp_path / "other/cells" / path.name))
        assert ours["probabilities"] == theirs["probabilities"]


def test_a_lost_worker_costs_no_cell(tmp_path):
    experiment = open_experiment(tmp_path, "regimes", seeds=[0], regimes=["silver"], store_every_s=0.2)
    experiment = experiment.model_copy(update={"classifier": experiment.classifier.model_copy(update={"epochs": 60})})
    labels = read_labels(experiment.data)
    killer = subprocess.Popen(
        [sys.executable, "-c", _KILL_ONE, str(tmp_path / "experiments/cells"), str(psutil.Process().pid)]
    )
    run_cells(
        [entry.cell for entry in grid_entries(experiment, labels)],
        labels,
        CellStore(f"{experiment.storage}/cells"),
        experiment,
    )
    assert killer.wait(timeout=10) == 0, "no worker was killed"
    assert len(list((tmp_path / "experiments/cells").glob("*.json"))) == 1


_KILL_ONE = """
import pathlib, psutil, sys, time
deadline = time.monotonic() + 100
while time.monotonic() < deadline:
    if list(pathlib.Path(sys.argv[1]).glob("*.state")):
        for process in psutil.Process(int(sys.argv[2])).children(recursive=True):
            if " ".join(process.cmdline()).startswith("ray::experiment"):
                process.kill()
                sys.exit(0)
    time.sleep(0.01)
sys.exit(1)
"""
