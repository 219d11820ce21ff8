"""A stage added as an exercise: it counts the words of every record, and all that goes through tables knows it.

The stage and its tables are what a new stage needs; the tests are below.
"""

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from llambert import schema
from llambert.errors import Damaged
from llambert.execution import Executor, Outcome, Pool
from llambert.execution.in_process import IN_PROCESS
from llambert.execution.ray_executor import RAY
from llambert.execution.stage_progress import PartByPartProgress
from llambert.integrity.repair import set_aside
from llambert.integrity.status import status
from llambert.integrity.verify import verify
from llambert.run import Run
from llambert.storage.manifest import Manifest
from llambert.tables import TABLES, TableGraph, TableSpec
from tests.fixtures.label_runs import fill, make_run

# The stage: its tables, its worker, the meaning of its counts

WORDS = pa.schema([pa.field(schema.RECORD_ID, pa.string(), nullable=False), pa.field("num_words", pa.int64())])
WITH_WORDS = TableGraph(
    *TABLES,
    TableSpec("words", "count words", WORDS, upstream=("corpus",), covers="corpus", is_required=True, is_shown=True),
    TableSpec(
        "word_rejects", "count words", schema.CORPUS_REJECTS, written_with="words", is_by_part=True, is_rejects=True
    ),
)


def count_words(run: Run, executor: Executor = RAY) -> Manifest:
    """``corpus`` -> ``words`` (record_id, num_words) and ``word_rejects`` (records without a word), part by part."""
    words, corpus = run.table("words"), run.table("corpus").require_manifest()
    if manifest := words.read_manifest():
        return manifest
    progress = PartByPartProgress("count words", words, corpus.parts)
    parts = progress.run_parts(executor, CountWords, (run,), Pool(max_actors=2))
    return run.complete("words", parts, **progress.seconds)


class CountWords:
    """Called with one part of the corpus at a time."""

    def __init__(self, run: Run) -> None:
        self.corpus, self.words, self.rejects = (run.table(name) for name in ("corpus", "words", "word_rejects"))

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        """Commit the part's rejects and then its words: where these are, those are too."""
        records = self.corpus.read_part(unit["name"], [schema.RECORD_ID, schema.TEXT])
        num_words = pa.array([len(text.split()) for text in records[schema.TEXT].to_pylist()], pa.int64())
        has_words = pc.greater(num_words, 0)
        empty = records.filter(pc.invert(has_words))
        empty = empty.append_column(schema.REJECT_REASON, pa.array(["no_word"] * empty.num_rows, pa.string()))
        self.rejects.commit_part(unit["name"], empty)
        counted = pa.table([records[schema.RECORD_ID], num_words], schema=WORDS).filter(has_words)
        return Outcome([self.words.commit_part(unit["name"], counted, rejected={"no_word": empty.num_rows})])


# Its tests

TEXTS = [" " if n % 10 == 3 else "word " * (n % 7 + 1) for n in range(50)]
TABLES_OF_STAGE = ("words", "word_rejects", "corpus")
FIRST, SECOND, THIRD = (f"part-00000-00000{n}.parquet" for n in range(3))


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose corpus of 50 records in three parts is there, five of them without a word."""
    return open_counting(tmp_path)


def open_counting(folder) -> Run:
    made = make_run(folder)
    if made.table("corpus").read_manifest() is None:
        fill(made, TEXTS, folder / "encoder", gold=True)
    return Run(made.recipe, made.task, WITH_WORDS)


def findings(run: Run) -> list:
    """Of the tables this stage reads and writes."""
    return [finding for finding in verify(run) if finding.table in TABLES_OF_STAGE]


@pytest.mark.parametrize("executor", [IN_PROCESS, pytest.param(RAY, marks=pytest.mark.slow)])
def test_every_record_is_counted_or_rejected_and_verify_and_status_know_the_tables(run, executor):
    assert "words: not complete: it has no manifest.json" in map(str, findings(run))
    manifest = count_words(run, executor)
    assert (manifest.num_in, manifest.num_kept, manifest.num_rejected) == (50, 45, {"no_word": 5})
    assert manifest.upstream == {"corpus": run.fingerprints["corpus"]}
    counted = run.table("words").read().to_pylist()
    assert counted == [
        {"record_id": f"r{n:05d}", "num_words": len(text.split())} for n, text in enumerate(TEXTS) if text.strip()
    ]
    rejected = run.table("word_rejects").read().to_pylist()
    assert [row["record_id"] for row in rejected] == ["r00003", "r00013", "r00023", "r00033", "r00043"]
    assert findings(run) == []
    shown = {table.name: table for table in status(run)}["words"]
    assert (shown.state, shown.done, shown.num_rejected, shown.num_parts) == ("complete", 50, 5, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
from llambert.execution.in_process import IN_PROCESS
from tests import test_toy_stage as stage
class Killed(stage.CountWords):
    def __call__(self, unit):
        if unit["name"] == stage.SECOND:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(unit)
stage.CountWords = Killed
stage.count_words(stage.open_counting(Path(sys.argv[1])), IN_PROCESS)
"""


def test_a_start_after_a_kill_between_parts_makes_what_is_missing(run, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -9
    words = run.table("words")
    assert words.part_names() == [FIRST]
    assert {table.name: table.done for table in status(run)}["words"] == 0  # written at most every two seconds
    made: list[str] = []

    class Noting:
        def run(self, stage, worker, arguments, units, pool):
            made.extend(unit["name"] for unit in units)
            yield from IN_PROCESS.run(stage, worker, arguments, units, pool)

    count_words(run, Noting())
    assert made == [SECOND, THIRD]
    assert words.read_progress()["done"] == 50
    assert findings(run) == []


def test_a_part_that_cannot_be_made_is_named_and_noted(run):
    corpus = run.table("corpus")
    corpus.filesystem.rm_file(corpus.path(SECOND))
    with pytest.raises(Damaged, match=f"{SECOND} is damaged: it is missing; `llambert repair` makes it again"):
        count_words(run, IN_PROCESS)
    shown = {table.name: table for table in status(run)}["words"]
    assert (shown.state, shown.num_failures) == ("stopped", 1)
    assert SECOND in shown.failure


@pytest.mark.parametrize("table", ["words", "word_rejects"])
def test_a_damaged_part_is_found_set_aside_and_made_again(run, table):
    count_words(run, IN_PROCESS)
    whole = {name: run.table(name).read() for name in ("words", "word_rejects")}
    before = run.table("words").committed_part(FIRST)
    damaged = run.table(table)
    damaged.filesystem.pipe_file(damaged.path(SECOND), b"PAR1 of nothing")
    found = findings(run)
    assert any(finding.table == table and finding.part == SECOND for finding in found)
    moved = set_aside(run, found)
    assert f"words/{run.fingerprints['words']}/{SECOND}" in moved
    assert f"word_rejects/{run.fingerprints['words']}/{SECOND}" in moved
    count_words(run, IN_PROCESS)
    assert findings(run) == []
    assert {name: run.table(name).read() for name in whole} == whole
    assert run.table("words").committed_part(FIRST) == before


def test_a_record_that_is_neither_counted_nor_rejected_is_found(run):
    manifest = count_words(run, IN_PROCESS)
    words = run.table("words")
    rows = words.read_part(SECOND)
    words.filesystem.rm_file(words.path(SECOND))
    part = words.commit_part(SECOND, rows.slice(1), rejected={"no_word": 2})
    words.complete("count words", [part if one.name == SECOND else one for one in manifest.parts])
    assert f"corpus/{SECOND}: 1 record (r00020) in neither words nor word_rejects" in map(str, findings(run))


def test_gold_labels_do_not_change_a_table_that_does_not_read_them(run):
    columns = run.recipe.corpus.columns.model_copy(update={"gold_label": "stars"})
    corpus = run.recipe.corpus.model_copy(update={"columns": columns})
    with_gold = Run(run.recipe.model_copy(update={"corpus": corpus}), run.task, run.tables)
    assert with_gold.fingerprints["corpus"] != run.fingerprints["corpus"]
    assert with_gold.fingerprints["words"] == run.fingerprints["words"]
