"""Memory of annotate's driver and of its replica with ten times the prompts.

    python -m tests.benchmarks.bench_annotate_memory [--records 10000 100000]

A tiny language model answers, so that the time goes by. Each number of records is a run of its own in a process
of its own; every second its processes are asked for their resident memory (RSS less what they share with files:
``psutil``'s USS). Prints the peak of each and the growth; exit status 1 where driver or replica grows by more than
a tenth, or 50 MiB where that is more: the ids and hashes of the sample, 40 bytes a record.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
import yaml

from llambert.run import open_run
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.sample import sample
from tests.fixtures.tiny_llm import save_tiny_llm

SLACK_MIB, GROWTH_CEILING = 50, 1.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--annotate", metavar="RECIPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.annotate:
        run = open_run(arguments.annotate)
        ingest(run)
        sample(run)
        manifest = annotate(run)
        print(f"{manifest.num_in} records, {manifest.measures['records_per_second']:.0f}/s", flush=True)
        return 0
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        llm = save_tiny_llm(Path(folder) / "llm")
        for num_records in arguments.records:
            peaks.append(measure(write_recipe(Path(folder), llm, num_records)))
    few, many = arguments.records
    within = True
    for role in ("driver", "replica"):
        before, after = peaks[0][role], peaks[1][role]
        within &= after <= max(before * GROWTH_CEILING, before + SLACK_MIB)
        print(
            f"{role:8} {before:7.0f} MiB at {few:,} prompts, {after:7.0f} MiB at {many:,}: ratio {after / before:.3f}"
        )
    return 0 if within else 1


def measure(recipe: Path) -> dict[str, float]:
    """Peak memory in MiB of the driver and of the replica's process while they annotate."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_annotate_memory", "--annotate", str(recipe)]
    )
    peaks = {"driver": 0.0, "replica": 0.0}
    while driver.poll() is None:
        process = psutil.Process(driver.pid)
        try:
            note(peaks, "driver", process)
            for child in process.children(recursive=True):
                if " ".join(child.cmdline()).startswith("ray::MapWorker"):
                    note(peaks, "replica", child)
        except psutil.Error:
            pass
        time.sleep(1)
    assert driver.returncode == 0, f"the driver ended with {driver.returncode}"
    return peaks


def note(peaks: dict[str, float], role: str, process: psutil.Process) -> None:
    peaks[role] = max(peaks[role], process.memory_full_info().uss / 2**20)


def write_recipe(folder: Path, llm: Path, num_records: int) -> Path:
    """One replica over ``num_records`` made-up reviews of a sentence."""
    corpus = folder / f"{num_records}.csv"
    with corpus.open("w") as file:
        file.write("text\n")
        file.writelines(
            f"Review number {n} of a film that never comes alive in {n % 97} ways.\n" for n in range(num_records)
        )
    annotator = {"model": str(llm), "dtype": "float32", "prompt": "completion", "mode": "score", "num_shots": 0}
    recipe = {
        "name": f"memory-{num_records}",
        "task": "reviews",
        "storage": str(folder / f"run-{num_records}"),
        "corpus": {"path": str(corpus), "rows_per_part": 10_000},
        "annotator": {**annotator, "num_records": num_records, "records_per_part": 512},
        "classifier": {"model": str(llm)},
    }
    path = folder / f"{num_records}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


if __name__ == "__main__":
    sys.exit(main())
