"""Drivers that certify and escalate are killed before random writes: the tables are those of an undisturbed run.

    python -m tests.drills.drill_guarantee [--kills 20] [--seed 0] [--rows 100]

A labelled run of ten files, a scripted annotator that counts what it is asked, tiny models. Its recipe gets a
guarantee; from then on each driver is killed by SIGKILL before a random write of certify, escalate or the report, up
to five times in a row, and started again until it is done. Sample, certificate, deferred records, answers and decisions
must be those of the undisturbed run, `llambert verify` must find nothing wrong, no question may be asked twice but
those in flight, and one more start must ask nothing. Exit status 1 if anything differs.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from llambert.integrity.verify import verify
from tests.fixtures.certified_runs import CERTIFIED, Oracle, contents_of, in_folder
from tests.fixtures.growing_corpora import open_growing, rows, write, write_recipe
from tests.fixtures.killed_growth import start
from tests.fixtures.openai_endpoint import serve

NUM_FILES, RECORDS_PER_PART = 10, 16
MOST_IN_A_ROW = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=100, help="records a file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llambert-guarantee-") as name:
        problems = drill(Path(name), arguments.kills, arguments.seed, arguments.rows)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} things are wrong" if problems else "nothing is wrong")
    return int(bool(problems))


def drill(folder: Path, num_kills: int, seed: int, num_rows: int = 100) -> list[str]:
    """What is wrong, a line each; see the module."""
    problems: list[str] = []
    chance, killed, num_runs, num_writes = random.Random(seed), 0, 0, 0
    with serve(Oracle()) as oracle:
        prepare(folder / "films", oracle.base_url, num_rows)
        oracle.requests.clear()
        shutil.copytree(folder / "films", folder / "whole")
        with in_folder(folder / "whole"):
            if start(folder / "whole"):
                return failed(folder / "whole", "undisturbed")
            expected, num_asked = contents_of(open_growing()), len(oracle.calls)
            num_writes = int(Path("writes").read_text())
        num_rows_of = {name: len(expected[name]) for name in CERTIFIED}
        print(f"undisturbed: {num_asked} questions, {num_writes} writes, {num_rows_of}", flush=True)
        while killed < num_kills:
            place, in_a_row = folder / f"killed-{num_runs}", 0
            shutil.copytree(folder / "films", place)
            oracle.requests.clear()
            with in_folder(place):
                while in_a_row < MOST_IN_A_ROW and killed < num_kills:
                    if start(place, chance.randint(1, num_writes)) != -signal.SIGKILL:
                        break  # done, or the next start fails as well
                    killed, in_a_row = killed + 1, in_a_row + 1
                if start(place):
                    return [*problems, *failed(place, f"run {num_runs}")]
                run, calls = open_growing(), list(oracle.calls)
                print(f"killed {in_a_row} times: {len(calls)} questions, {num_asked} undisturbed", flush=True)
                if len(set(calls)) != num_asked or len(calls) > num_asked + in_a_row * RECORDS_PER_PART:
                    problems.append(f"run {num_runs}: {len(calls)} questions, {len(set(calls))} of them different")
                found = contents_of(run)
                problems += [f"run {num_runs}: {name} differs" for name in expected if found[name] != expected[name]]
                problems += [f"run {num_runs}: {finding}" for finding in verify(run)]
                oracle.requests.clear()
                start(place)
                if oracle.calls:
                    problems.append(f"run {num_runs}: one more start asked {len(oracle.calls)} questions")
            shutil.rmtree(place)
            num_runs += 1
    print(f"seed {seed}: {killed} kills before one of {num_writes} writes over {num_runs} runs", flush=True)
    return problems


def prepare(folder: Path, base_url: str, num_rows: int) -> None:
    """A finished run without a guarantee, and then the recipe with one."""
    annotator = {"num_records": 10 * num_rows // 8, "records_per_part": RECORDS_PER_PART}
    recipe = write_recipe(folder, base_url, NUM_FILES, annotator=annotator, classifier={"epochs": 2})
    for name in "abcdefghij":
        write(folder / "corpus", name, rows(name, num_rows))
    assert start(folder) == 0, (folder / "log").read_text()[-2000:]
    values = yaml.safe_load(recipe.read_text())
    values["guarantee"] = {"target": 0.95, "certify_records": 2 * num_rows}
    recipe.write_text(yaml.safe_dump(values))


def failed(folder: Path, what: str) -> list[str]:
    return [f"{what}: the run failed: {(folder / 'log').read_text()[-2000:]}"]


if __name__ == "__main__":
    sys.exit(main())
