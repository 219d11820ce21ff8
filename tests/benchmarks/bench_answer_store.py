"""Looking up questions among a million stored answers: seconds and memory, with the index and without it.

    python -m tests.benchmarks.bench_answer_store [--answers 1000000] [--per-part 256] [--lookups 10000]

Half of what is looked up is stored. Each lookup is a process of its own, whose memory is what it holds beyond Python
and Arrow. Without the index every part is read; annotate writes the index at its end. Exit status 1 if a lookup with
the index takes five seconds or a gibibyte. About two minutes, half of them to write the parts.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import torch

from llambert import schema
from llambert.annotation.answer_store import AnswerStore
from llambert.annotation.questions import Questions
from llambert.classifier.chip import chip_name
from llambert.storage.run_directory import TableDirectory
from llambert.tasks import load_task
from tests.fixtures.stored_responses import DEFAULTS

MAX_SECONDS, MAX_BYTES = 5.0, 1 << 30
WORDS = (
    "the",
    "film",
    "is",
    "a",
    "moving",
    "story",
    "about",
    "nothing",
    "that",
    "never",
    "comes",
    "to",
    "life",
    "at last",
)


def texts(start: int, end: int) -> list[str]:
    """A number, by which it is asked about, and a hundred words."""
    words = np.random.default_rng(start).choice(WORDS, (end - start, 100))
    return [f"{number} {' '.join(of_one)}" for number, of_one in zip(range(start, end), words, strict=True)]


def questions() -> Questions:
    task = load_task("reviews")
    return Questions(task.prompt("instruct"), {each.name: each.answer_words[0] for each in task.categories}, None)


def fill(table: TableDirectory, num: int, per_part: int) -> None:
    store, asked = AnswerStore(table), questions()
    for start in range(0, num, per_part):
        of_part = texts(start, min(start + per_part, num))
        columns = {name: [DEFAULTS[name]] * len(of_part) for name in schema.ANSWERS.names if name != schema.KEY}
        columns |= {schema.PROMPT: of_part, schema.RESPONSE: ["Positive"] * len(of_part)}
        columns[schema.KEY] = asked.keys([text.partition(" ")[0] for text in of_part])
        store.commit("0" * 12, pa.table(columns, schema=schema.ANSWERS))


def look_up(uri: str, num_stored: int, num: int) -> dict[str, float]:
    """Seconds from the questions to what is found, and the bytes that it takes at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    some = np.random.default_rng(0).integers(0, 2 * num_stored, num)
    wanted = [str(number) for number in some.tolist()]
    began = time.perf_counter()
    found = AnswerStore(TableDirectory(uri, schema.ANSWERS)).find(questions().keys(wanted))
    seconds = time.perf_counter() - began
    assert len(found) - found.null_count == (some < num_stored).sum()
    return {"seconds": seconds, "bytes": 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}


def main() -> int:
    """Print both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--per-part", type=int, default=256)
    parser.add_argument("--lookups", type=int, default=10_000)
    parser.add_argument("--look-up", help=argparse.SUPPRESS)  # the store: what a process of its own is started with
    arguments = parser.parse_args()
    if arguments.look_up:
        print(json.dumps(look_up(arguments.look_up, arguments.answers, arguments.lookups)))
        return 0
    with tempfile.TemporaryDirectory(prefix="llambert-bench-answers-") as folder:
        table = TableDirectory(f"{folder}/answers/0", schema.ANSWERS)
        began = time.perf_counter()
        fill(table, arguments.answers, arguments.per_part)
        num_parts = len(table.part_names())
        size = table.filesystem.du(table.path()) / arguments.answers
        print(
            f"{chip_name(torch.device('cpu'))}; {arguments.answers:,} answers in {num_parts:,} parts, written in "
            f"{time.perf_counter() - began:.0f} s; {size:.0f} bytes an answer, prompts of 100 words included"
        )
        numbers = ("--answers", str(arguments.answers), "--lookups", str(arguments.lookups))
        command = [sys.executable, "-m", "tests.benchmarks.bench_answer_store", *numbers, "--look-up", table.uri]

        def measured() -> dict[str, float]:
            rounds = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
            return sorted(rounds, key=lambda one: one["seconds"])[1]

        sides = {"without the index": measured()}
        began = time.perf_counter()
        AnswerStore(table).save_index()
        print(f"the index is written in {time.perf_counter() - began:.1f} s")
        sides["with the index"] = measured()
    for name, one in sides.items():
        print(f"{arguments.lookups:,} questions, {name:<18} {one['seconds']:6.2f} s  {one['bytes'] / 2**20:6.0f} MiB")
    with_index = sides["with the index"]
    print(f"without / with             {sides['without the index']['seconds'] / with_index['seconds']:.1f}")
    return int(with_index["seconds"] > MAX_SECONDS or with_index["bytes"] > MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
