"""SIGKILL of an engine's actor, of another Ray worker and of the driver at random points of annotate.

    python -m tests.drills.drill_annotate [--kills 20] [--seed 0]

The annotate stage runs on two replicas of a tiny language model; a driver that was killed is started again, as
an operator would. When all kills are done and the stage has ended, its responses must be those of an
undisturbed run, row for row, and ``llambert verify`` must find nothing wrong with them. Prints each kill, so that
a failing drill can be followed, and the seed that repeats its schedule. Exit status 1 if anything differs.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import psutil
import pyarrow as pa
import yaml

from llambert import schema
from llambert.run import Run, open_run
from llambert.stages.annotate import annotate
from llambert.stages.ingest import ingest
from llambert.stages.sample import sample
from tests.fixtures.annotate_runs import probabilities
from tests.fixtures.processes import descendants, kill_group, signal_one, title, wait_for_commit
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_llm import save_tiny_llm

NUM_RECORDS, RECORDS_PER_PART = 3_000, 8
TARGETS = ("actor", "worker", "driver")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--annotate", nargs=2, help=argparse.SUPPRESS)  # recipe, storage: what a driver is started with
    arguments = parser.parse_args()
    if arguments.annotate:
        drive(*arguments.annotate)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return drill(Path(folder), arguments.kills, random.Random(arguments.seed), arguments.seed)


def drill(folder: Path, num_kills: int, rng: random.Random, seed: int) -> int:
    recipe = write_recipe(folder)
    undisturbed = folder / "undisturbed"
    subprocess.run(
        driver_command(recipe, undisturbed), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    expected = responses(recipe, undisturbed)
    kill_counts: Counter[str] = Counter()
    num_rounds = num_starts = 0
    while kill_counts.total() < num_kills:
        storage = folder / f"run-{num_rounds}"
        num_starts += annotate_with_kills(recipe, storage, num_kills, kill_counts, rng)
        num_rounds += 1
        if difference := compare(responses(recipe, storage), expected):
            print(f"seed {seed}, run {num_rounds}: {difference}")
            return 1
    kills = ", ".join(f"{kill_counts[target]} of {target}" for target in TARGETS)
    print(f"seed {seed}: {kill_counts.total()} kills ({kills}) over {num_rounds} runs and {num_starts} driver starts:")
    print(f"every one of {NUM_RECORDS} sampled records once in responses, row for row as undisturbed")
    return 0


def annotate_with_kills(
    recipe: Path, storage: Path, num_kills: int, kill_counts: Counter[str], rng: random.Random
) -> int:
    """Run the stage to its end, killing on the way; returns how often the driver was started."""
    num_starts = 0
    while True:
        driver = subprocess.Popen(
            driver_command(recipe, storage),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        num_starts += 1
        wait_for_commit(driver, lambda: len(list(storage.glob("answers/*/part-*"))))
        while driver.poll() is None:
            try:
                driver.wait(rng.uniform(0.2, 2.5))
            except subprocess.TimeoutExpired:
                if kill_counts.total() < num_kills:
                    kill(rng.choice(TARGETS), driver, kill_counts, rng)
        if driver.returncode == 0:
            return num_starts
        # A killed driver takes its local cluster along; what it left would disturb the next start.
        kill_group(driver.pid)


def kill(target: str, driver: subprocess.Popen, kill_counts: Counter[str], rng: random.Random) -> None:
    """SIGKILL one process of the kind ``target``; none where there is none just now."""
    unlike = "actor" if target == "worker" else ""
    victims = [psutil.Process(driver.pid)] if target == "driver" else descendants(driver.pid, target, unlike)
    names = {victim.pid: title(victim) for victim in victims}
    if victim := signal_one(victims, rng):
        kill_counts[target] += 1
        print(
            f"kill {kill_counts.total()}: {target} {names[victim.pid] if target != 'driver' else ''}".rstrip(),
            flush=True,
        )


def driver_command(recipe: Path, storage: Path) -> list[str]:
    return [sys.executable, "-m", "tests.drills.drill_annotate", "--annotate", str(recipe), str(storage)]


def drive(recipe: str, storage: str) -> None:
    run = open_run(recipe, [f"storage={storage}"])
    ingest(run)
    sample(run)
    annotate(run)


def write_recipe(folder: Path) -> Path:
    """A recipe over made-up texts, of two replicas with half a core each."""
    llm = save_tiny_llm(folder / "llm")
    words = ["a", "dull", "moving", "mess", "film", "never", "funny", "warm", "and", "lifeless"]
    rng = random.Random(0)
    rows = (" ".join(rng.choices(words, k=rng.randint(3, 60))) for _ in range(NUM_RECORDS))
    (folder / "corpus.csv").write_text("text\n" + "\n".join(f"{text} {n}" for n, text in enumerate(rows)) + "\n")
    annotator = {"model": str(llm), "dtype": "float32", "prompt": "completion", "mode": "score"}
    placement = {"min_replicas": 2, "max_replicas": 2, "cpus_per_replica": 0.5, "max_attempts": 10}
    annotator |= {"num_records": NUM_RECORDS, "records_per_part": RECORDS_PER_PART, **placement}
    recipe = {
        "name": "drill",
        "task": "reviews",
        "corpus": {"path": str(folder / "corpus.csv")},
        "annotator": annotator,
        "classifier": {"model": str(llm)},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def responses(recipe: Path, storage: Path) -> tuple[Run, pa.Table]:
    run = open_run(str(recipe), [f"storage={storage}"])
    return run, joined(run)


def compare(found: tuple[Run, pa.Table], expected: tuple[Run, pa.Table]) -> str:
    """What is wrong with the responses found, in words; empty: nothing."""
    run, table = found
    sample = run.table("sample").read([schema.RECORD_ID])[schema.RECORD_ID].to_pylist()
    ids = table[schema.RECORD_ID].to_pylist()
    if ids != sample:
        lost, twice = set(sample) - set(ids), [i for i, n in Counter(ids).items() if n > 1]
        return f"{len(lost)} records lost, {len(twice)} twice"
    vary = [schema.LABEL_PROBABILITIES, schema.BUSY_SECONDS]
    if table.drop_columns(vary) != expected[1].drop_columns(vary):
        return "a response differs from the undisturbed run's"
    gap = np.abs(probabilities(table) - probabilities(expected[1])).max()
    if gap > 1e-5:
        return f"a probability differs by {gap:.1e}"
    manifest = run.table("responses").require_manifest()
    if [part.num_rows for part in manifest.parts] != [part.num_rows for part in expected_parts(expected[0])]:
        return "the parts are not the undisturbed run's"
    return ""


def expected_parts(run: Run) -> list:
    return run.table("responses").require_manifest().parts


if __name__ == "__main__":
    sys.exit(main())
