"""SIGKILL of actor, raylet, driver and S3 server at random points of label; two drivers at once.

    python -m tests.drills.drill_label [--kills 50] [--seed 0]

The label stage runs on two actors with a tiny classifier, from and to a real S3 server; whatever was killed is
started again, the server after a second or two, the driver as an operator would. When all kills are done and the
stage has ended, its labels must be those of an undisturbed run, part for part and byte for byte, and ``llambert
verify`` must find nothing wrong with them. Then two drivers are started on one run at once: the table must be the
undisturbed one again, whoever wins. Prints each kill, and the seed that repeats its schedule. Exit status 1 if
anything differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil

from llambert.integrity.verify import verify
from llambert.run import Run
from llambert.stages.label import label
from tests.fixtures.label_runs import fill, make_run
from tests.fixtures.processes import descendants, kill_group, signal_one, wait_for_commit
from tests.fixtures.s3_server import S3Server, running_server
from tests.fixtures.tiny_classifier import tiny_texts

NUM_RECORDS, ROWS_PER_PART = 12_000, 40
TARGETS = {"actor": 4, "raylet": 2, "driver": 2, "S3 server": 3}  # and how often each is chosen
RAYLET_MISSED_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", nargs=2, help=argparse.SUPPRESS)  # folder, storage: what a driver is started with
    arguments = parser.parse_args()
    if arguments.label:
        label(open_drill(Path(arguments.label[0]), arguments.label[1]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that whoever ends the drill ends the server too
    with tempfile.TemporaryDirectory() as folder:
        return drill(Path(folder), arguments.kills, arguments.seed)


def drill(folder: Path, num_kills: int, seed: int, num_records: int = NUM_RECORDS) -> int:
    rng = random.Random(seed)
    kill_counts: Counter[str] = Counter()
    num_rounds = num_starts = 0
    with running_server(folder / "s3") as server:
        undisturbed = fill_drill(folder, "undisturbed", num_records)
        subprocess.run(driver_command(folder, undisturbed), check=True, stderr=subprocess.DEVNULL)
        while kill_counts.total() < num_kills:
            run = fill_drill(folder, f"killed-{num_rounds}", num_records)
            num_starts += label_with_kills(folder, run, num_kills, kill_counts, rng, server)
            num_rounds += 1
            if difference := compare(run, undisturbed):
                print(f"seed {seed}, run {num_rounds}: {difference}")
                return 1
        kills = ", ".join(f"{kill_counts[target]} of {target}" for target in TARGETS)
        print(f"seed {seed}: {kill_counts.total()} kills ({kills}) over {num_rounds} runs, {num_starts} driver starts:")
        print(f"every one of {num_records:,} records once in labels, part for part as undisturbed")
        return two_drivers(folder, fill_drill(folder, "two-drivers", num_records), undisturbed)


def label_with_kills(
    folder: Path, run: Run, num_kills: int, kill_counts: Counter[str], rng: random.Random, server: S3Server
) -> int:
    """Run the stage to its end, killing on the way; returns how often the driver was started."""
    num_starts = 0
    while True:
        driver = start_driver(folder, run)
        num_starts += 1
        try:
            wait_for_commit(driver, lambda: len(run.table("labels").part_names()), 0.2)
            while driver.poll() is None:
                try:
                    driver.wait(rng.uniform(0.1, 2.0))
                except subprocess.TimeoutExpired:
                    if kill_counts.total() < num_kills:
                        [target] = rng.choices(list(TARGETS), list(TARGETS.values()))
                        kill(target, driver, server, kill_counts, rng)
        finally:
            # A killed driver takes its local cluster along; what it left would disturb the next start.
            kill_group(driver.pid)
        if driver.returncode == 0:
            return num_starts


def start_driver(folder: Path, run: Run) -> subprocess.Popen:
    command = driver_command(folder, run)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def driver_command(folder: Path, run: Run) -> list[str]:
    return [sys.executable, "-m", "tests.drills.drill_label", "--label", str(folder), run.recipe.storage]


def kill(
    target: str, driver: subprocess.Popen, server: S3Server, kill_counts: Counter[str], rng: random.Random
) -> None:
    """SIGKILL one process of the kind ``target``; none where there is none just now."""
    if target == "S3 server":
        server.kill()
        time.sleep(rng.uniform(0, 2))
        server.start()
    else:
        victims = [psutil.Process(driver.pid)] if target == "driver" else descendants(driver.pid, target)
        if not signal_one(victims, rng):
            return
    kill_counts[target] += 1
    print(f"kill {kill_counts.total()}: {target}", flush=True)
    if target == "raylet":  # its driver cannot go on; one that does not notice is ended, as by an operator
        try:
            driver.wait(RAYLET_MISSED_S)
        except subprocess.TimeoutExpired:
            kill_group(driver.pid)


def two_drivers(folder: Path, run: Run, undisturbed: Run) -> int:
    """Both label the same run at once; one may lose, the table may not."""
    drivers = [start_driver(folder, run) for _ in range(2)]
    try:
        ended = [driver.wait() for driver in drivers]
    finally:
        for driver in drivers:
            kill_group(driver.pid)
    difference = "neither driver finished" if all(ended) else compare(run, undisturbed)
    print(f"two drivers at once ended with status {ended[0]} and {ended[1]}: {difference or 'the undisturbed table'}")
    return 1 if difference else 0


def open_drill(folder: Path, storage: str) -> Run:
    return make_run(folder, storage, min_actors=2, max_actors=2, cpus_per_actor=0.5, max_attempts=20)


def fill_drill(folder: Path, name: str, num_records: int) -> Run:
    run = open_drill(folder, f"s3://llambert-test/{name}")
    return fill(run, tiny_texts(num_records), folder / "encoder", gold=True, rows_per_part=ROWS_PER_PART)


def compare(run: Run, expected: Run) -> str:
    """What is wrong with the labels, in words; empty: nothing."""
    for table in ("labels", "label_rejects"):
        found, wanted = (one.table(table).require_manifest().parts for one in (run, expected))
        if found != wanted:
            names = [part.name for part in found if part not in wanted] or "parts that are not there"
            return f"{table} differ from the undisturbed run's: {names[:5]}"
    wrong = [str(finding) for finding in verify(run) if finding.table in ("corpus", "labels", "label_rejects")]
    return "; ".join(wrong[:5])


if __name__ == "__main__":
    sys.exit(main())
