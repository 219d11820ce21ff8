"""The pipeline that drills run: a scripted annotator, a tiny encoder, drivers, and the comparison of its tables."""

import contextlib
import hashlib
import multiprocessing
import os
import random
import runpy
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from llambert import tables
from llambert.cli import main
from llambert.run import Run, open_run
from llambert.schema import BUSY_SECONDS, RECORD_ID
from tests.fixtures.openai_endpoint import Endpoint, chat, serve
from tests.fixtures.processes import kill_group
from tests.fixtures.stored_responses import joined
from tests.fixtures.tiny_encoder import NEGATIVE, POSITIVE, WORDS, save_tiny_encoder

ROOT = Path(__file__).resolve().parents[2]
# One file, one actor a stage: on two cores a drill is the starts of its processes, one to three seconds each.
NUM_FILES, ROWS_PER_FILE, ROWS_PER_PART = 1, 400, 25
NUM_ANNOTATED, RECORDS_PER_PART = 128, 8
# Stage -> the table that grows while it works, and the one with whose manifest it is complete.
ENDS = {table.stage: table.name for table in tables.TABLES if table.is_required}
GROWS = ENDS | {"annotate": "answers", "finetune": "training"}
# Those of every run, as Parquet.
TABLES = tuple(
    table.name
    for table in tables.TABLES
    if table.schema and table.is_checked and (table.is_required or table.is_rejects or table.name == "duplicates")
)


class ScriptedAnnotator(Endpoint):
    """Answers by the words of the text, after ``delay_s``: the openai engine asks it, as it would any endpoint."""

    delay_s = 0.03

    def reply_to(self, request: dict) -> tuple[int, dict, dict]:
        time.sleep(self.delay_s)
        words = request["messages"][-1]["content"].split()
        score = sum((word in POSITIVE) - (word in NEGATIVE) for word in words)
        answer = "Positive" if score > 0 else "Negative" if score < 0 else "I cannot say"
        return 200, chat(answer, tokens=(len(words), 2)), {}


@contextlib.contextmanager
def scripted_annotator() -> Iterator[ScriptedAnnotator]:
    """A running one."""
    with serve(ScriptedAnnotator()) as endpoint:
        yield endpoint


def write_recipe(folder: Path, base_url: str, storage: str, rows_per_file: int = ROWS_PER_FILE) -> Path:
    """A recipe over made-up texts in one file, a few hundred; some twice, some empty; returns its path."""
    rng = random.Random(0)
    (folder / "corpus").mkdir()
    for file in range(NUM_FILES):
        rows = [f"{file}-{row}," + " ".join(rng.choices(WORDS, k=12)) for row in range(rows_per_file)]
        rows[7], rows[9] = f"{file}-7,", f"{file}-9,the same"
        (folder / "corpus" / f"{file:02d}.csv").write_text("id,text\n" + "\n".join(rows) + "\n")
    recipe = {
        "name": "drill",
        "task": "reviews",
        "storage": storage,
        "corpus": {
            "path": f"{folder / 'corpus'}/*.csv",
            "columns": {"record_id": "id"},
            "rows_per_part": ROWS_PER_PART,
        },
        "annotator": {
            "engine": "openai",
            "model": "scripted",
            "base_url": base_url,
            "prompt": "instruct",
            "num_records": NUM_ANNOTATED,
            "records_per_part": RECORDS_PER_PART,
            "limits": {"concurrency": 4},
            "max_attempts": 10,
        },
        "classifier": {
            "model": save_tiny_encoder(folder / "encoder"),
            "max_length": 32,
            "learning_rate": 1e-3,
            "epochs": 2,
            "batch_size": 8,
            "checkpoint_every_s": 0,
            "max_failures": 10,
        },
        "label": {"max_attempts": 10},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@dataclass(frozen=True)
class Drivers:
    """Starts drivers, each a process in a session of its own, forked where its imports are done.

    A driver is a process like any other, but for the seconds of imports that a cold one begins with.
    """

    log: Path
    context: Any = field(default_factory=lambda: multiprocessing.get_context("forkserver"))

    def __post_init__(self) -> None:
        self.context.set_forkserver_preload(["tests.drills.warm_driver"])

    def start(self, program: str, arguments: list[str], environment: dict[str, str]) -> BaseProcess:
        """`jobs/PROGRAM.py ARGUMENTS`, or `llambert PROGRAM ARGUMENTS` where there is no such job.

        With LD_PRELOAD in ``environment`` it is a cold process, below the one that is returned.
        """
        command = [program, *arguments]
        process = self.context.Process(target=drive, args=(command, {**os.environ, **environment}, str(self.log)))
        process.start()
        return process


def drive(command: list[str], environment: dict[str, str], log: str) -> None:
    """The main function of a driver's process."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    job = ROOT / "jobs" / f"{command[0]}.py"
    line = [str(job), *command[1:]] if job.exists() else ["-m", "llambert.cli", *command]
    if "LD_PRELOAD" in environment:
        os.execv(sys.executable, [sys.executable, *line])
    if job.exists():
        sys.argv = line
        runpy.run_path(str(job), run_name="__main__")
    else:
        sys.argv = ["llambert", *command]
        main()


def end_driver(driver: BaseProcess) -> None:
    """SIGKILL a driver, if it is still there, and what it started in its session."""
    if driver.pid is not None:
        kill_group(driver.pid)
    driver.join()


@dataclass
class Difference:
    """Differences between a run's tables and the undisturbed run's, in records."""

    lost: int = 0
    duplicated: int = 0
    altered: int = 0
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.duplicated or self.altered or self.notes)


def contents(run: Run) -> dict[str, Any]:
    """Every table's rows, and the checksums of the checkpoint's weights."""
    found: dict[str, Any] = {name: run.table(name).read().to_pylist() for name in TABLES if name != "responses"}
    # Which part of the store has an answer, and how long it took, depend on what was killed.
    found["responses"] = joined(run).drop_columns([BUSY_SECONDS]).to_pylist()
    checkpoint = run.table("checkpoint")
    weights = checkpoint.filesystem.cat_file(checkpoint.path("model.safetensors"))
    found["weights"] = hashlib.sha256(weights).hexdigest()
    return found


def compare(found: dict[str, Any], expected: dict[str, Any]) -> Difference:
    """Every table row for row, and the weights byte for byte."""
    difference = compare_tables({name: found[name] for name in TABLES}, expected)
    if found["weights"] != expected["weights"]:
        difference.notes.append("the checkpoint's weights differ")
    return difference


def compare_tables(found: dict[str, list[dict]], expected: dict[str, Any]) -> Difference:
    """The tables in ``found``, by record_id; where all that agrees, the order of the rows too."""
    difference = Difference()
    for name, rows in found.items():
        wanted = expected[name]
        if rows == wanted:
            continue
        ids, wanted_ids = (Counter(row[RECORD_ID] for row in table) for table in (rows, wanted))
        lost, more = (wanted_ids - ids).total(), (ids - wanted_ids).total()
        by_id = {row[RECORD_ID]: row for row in wanted}
        altered = sum(row[RECORD_ID] in by_id and row != by_id[row[RECORD_ID]] for row in rows)
        difference.lost += lost
        difference.duplicated += more
        difference.altered += altered
        difference.notes.append(f"{name}: {lost} lost, {more} too many, {altered} altered of {len(wanted)}")
    return difference


def open_drill_run(recipe: Path, storage: str) -> Run:
    """The run of ``recipe`` at ``storage``."""
    return open_run(str(recipe), [f"storage={storage}"])
