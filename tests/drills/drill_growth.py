"""A corpus of 10,000 records grows, changes and shrinks, undisturbed and killed at random: what is asked, what stays.

    python -m tests.drills.drill_growth [--kills 20] [--seed 0] [--rows 1000]

Ten files, a scripted annotator that counts what it is asked, tiny models. After each change of the corpus the run is
started again: the annotator must be asked about texts that it has never been asked about and no others, the parts of
files that did not change must keep their bytes and times, `llambert verify` must find nothing wrong, and one more start
must ask nothing. Then the growing run is killed by SIGKILL before random writes and started again: its tables must be
those of the undisturbed run, and no question asked twice but those in flight. Exit status 1 if anything differs.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from llambert import schema
from llambert.integrity.verify import verify
from llambert.run import Run
from tests.fixtures.growing_corpora import (
    ScriptedAnnotator,
    contents,
    key_of,
    open_growing,
    rows,
    states,
    write,
    write_recipe,
)
from tests.fixtures.killed_growth import start
from tests.fixtures.openai_endpoint import KEY, serve
from tests.fixtures.stored_responses import joined

NUM_SAMPLED, RECORDS_PER_PART = 1_000, 50
TABLES = ("corpus", "corpus_rejects", "duplicates", "sample", "silver", "rejects", "labels", "label_rejects")


def appended(corpus: Path, num_rows: int) -> str:
    """A file more, a tenth of the corpus; returns the files that did not change."""
    write(corpus, "k", rows("k", num_rows))
    return "abcdefghij"


def changed(corpus: Path, num_rows: int) -> str:
    """One file with other texts in every tenth row."""
    write(corpus, "b", [f"{text} and more" if n % 10 == 0 else text for n, text in enumerate(rows("b", num_rows))])
    return "acdefghijk"


def removed(corpus: Path, _: int) -> str:
    """A file less."""
    (corpus / "c.csv").unlink()
    return "abdefghijk"


def renamed(corpus: Path, _: int) -> str:
    """The same texts under another name, and so of other IDs."""
    (corpus / "d.csv").rename(corpus / "z.csv")
    return "abefghijk"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=1_000, help="records a file")
    arguments = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = KEY
    with tempfile.TemporaryDirectory(prefix="llambert-growth-") as name, serve(ScriptedAnnotator()) as annotator:
        folder = Path(name) / "films"
        folder.mkdir()
        numbers = {"num_records": NUM_SAMPLED, "records_per_part": RECORDS_PER_PART}
        write_recipe(folder, annotator.base_url, 10, annotator=numbers, corpus={"rows_per_part": 250})
        for file in "abcdefghij":
            write(folder / "corpus", file, rows(file, arguments.rows))
        problems = grow_undisturbed(folder, annotator, arguments.rows)
        problems += grow_and_kill(folder, annotator, arguments)
    for problem in problems:
        print(problem)
    print("nothing is wrong" if not problems else f"{len(problems)} things are wrong")
    return int(bool(problems))


def grow_undisturbed(folder: Path, annotator: ScriptedAnnotator, num_rows: int) -> list[str]:
    """See the module; leaves the run before its first change as ``folder-before``."""
    problems, asked = [], Counter[str]()
    changes: tuple[Callable[[Path, int], str] | None, ...] = (None, appended, changed, removed, renamed)
    for change in changes:
        os.chdir(folder)
        before, unchanged = (
            ({}, "") if change is None else (label_states(open_growing()), change(folder / "corpus", num_rows))
        )
        annotator.requests.clear()
        problems += [f"{change}: the run failed: {(folder / 'log').read_text()[-2000:]}"] if start(folder) else []
        calls, run = Counter(annotator.calls), open_growing()
        sampled = {row[schema.TEXT] for row in run.table("sample").read().to_pylist()}
        new = sum(not any(text in question for question in asked) for text in sampled)
        what = change.__name__ if change else "begun"
        num_kept = {name: run.table(name).require_manifest().num_kept for name in ("corpus", "sample")}
        print(
            f"{what:<9} {num_kept['corpus']:>6,} records, {num_kept['sample']:>5,} sampled, {new:>5,} of them not "
            f"asked about before, {calls.total():>5,} questions",
            flush=True,
        )
        if calls.total() != new or calls & asked:
            problems.append(
                f"{what}: {calls.total()} questions for {new} new texts, {(calls & asked).total()} asked before"
            )
        after = label_states(run)
        for file in unchanged:
            of_file = {name: state for name, state in before.items() if key_of(run, file) in name}
            if not of_file or not of_file.items() <= after.items():
                problems.append(f"{what}: the labels of file {file} did not stay as they were")
        problems += [f"{what}: {finding}" for finding in verify(run)]
        asked += calls
        annotator.requests.clear()
        start(folder)
        if annotator.calls:
            problems.append(f"{what}: one more start asked {len(annotator.calls)} questions")
        if change is None:
            shutil.copytree(folder, f"{folder}-before")
    return problems


def grow_and_kill(folder: Path, annotator: ScriptedAnnotator, arguments: argparse.Namespace) -> list[str]:
    """See the module."""
    problems, chance, num_kills, num_runs = [], random.Random(arguments.seed), 0, 0
    expected = None
    while num_kills < arguments.kills:
        place = folder.with_name(f"killed-{num_runs}")
        shutil.copytree(f"{folder}-before", place)
        os.chdir(place)
        appended(place / "corpus", arguments.rows)
        annotator.requests.clear()
        if expected is None:  # undisturbed
            start(place)
            expected, num_new = whole(open_growing()), len(annotator.calls)
            num_writes = int((place / "writes").read_text())
            num_runs += 1
            continue
        of_run = 0
        while start(place, chance.randint(1, num_writes) if num_kills < arguments.kills and of_run < 5 else 0):
            num_kills, of_run = num_kills + 1, of_run + 1
        run, num_calls = open_growing(), len(annotator.calls)
        print(f"killed {of_run} times: {num_calls} questions, {num_new} undisturbed", flush=True)
        if len(set(annotator.calls)) != num_new or num_calls > num_new + of_run * RECORDS_PER_PART:
            problems.append(f"run {num_runs}: {num_calls} questions, {len(set(annotator.calls))} of them different")
        found = whole(run)
        problems += [f"run {num_runs}: {name} differs" for name in expected if found[name] != expected[name]]
        problems += [f"run {num_runs}: {finding}" for finding in verify(run)]
        num_runs += 1
    print(f"seed {arguments.seed}: {num_kills} kills before one of {num_writes} writes over {num_runs - 1} runs")
    return problems


def label_states(run: Run) -> dict[str, tuple[int, int, str]]:
    return states(run, "labels")


def whole(run: Run) -> dict[str, list[dict]]:
    """All tables; of the responses not how long an answer took, nor which part of the store has it."""
    return contents(run, *TABLES) | {"responses": joined(run).drop_columns([schema.BUSY_SECONDS]).to_pylist()}


if __name__ == "__main__":
    sys.exit(main())
