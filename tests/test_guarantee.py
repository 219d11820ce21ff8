"""A certified run from end to end: it grows, is damaged and repaired, and is killed and resumed."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from llambert import schema
from llambert.execution.in_process import IN_PROCESS
from llambert.hashing import hash64
from llambert.integrity.finding import FindingKind
from llambert.integrity.repair import repair
from llambert.integrity.status import status
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from llambert.run import Run
from llambert.storage.manifest import MANIFEST
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.certified_runs import CERTIFIED, Oracle, contents_of, in_folder
from tests.fixtures.growing_corpora import ROWS_PER_FILE, open_growing, write, write_recipe
from tests.fixtures.killed_growth import start
from tests.fixtures.openai_endpoint import serve

NUM_KILLS = 4


@pytest.fixture(scope="module")
def oracle():
    with serve(Oracle()) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory, oracle):
    """A folder whose certified run over five files is finished, and what it asked."""
    folder = tmp_path_factory.mktemp("finished") / "films"
    write_recipe(folder, oracle.base_url, guarantee={"target": 0.95, "certify_records": 120})
    with in_folder(folder):
        pipeline(open_growing(), IN_PROCESS)
    return folder


@pytest.fixture
def films(tmp_path, finished, oracle):
    """A copy of that folder, in which the test is; nothing has been asked since."""
    oracle.requests.clear()
    shutil.copytree(finished, tmp_path / "films")
    with in_folder(tmp_path / "films"):
        yield tmp_path / "films"


def test_a_certified_run_is_whole_and_its_status_shows_certificate_and_decisions(films, oracle):
    run = open_growing()
    assert verify(run) == []
    shown = {table.name: (table.state, table.done) for table in status(run)}
    assert shown["certificate"] == ("complete", 120)
    assert shown["decisions"] == ("complete", 5 * ROWS_PER_FILE)
    pipeline(run, IN_PROCESS)
    assert oracle.calls == []


def test_a_corpus_that_grows_is_certified_anew_with_the_answers_it_has(films, oracle):
    before = open_growing()
    sampled = {row[schema.RECORD_ID] for row in before.table("certification").read().to_pylist()}
    write(films / "corpus", "f")
    pipeline(open_growing(), IN_PROCESS)
    run = open_growing()
    now = {row[schema.RECORD_ID] for row in run.table("certification").read().to_pylist()}
    assert len(now) == 120
    assert len(now & sampled) > 80
    assert 0 < len(oracle.calls) == len(set(oracle.calls)) < 120
    assert run.table("decisions").require_manifest().num_kept == 6 * ROWS_PER_FILE
    assert [row[schema.RECORD_ID] for row in run.table("decisions").read().to_pylist()] == [
        row[schema.RECORD_ID] for row in run.table("labels").read().to_pylist()
    ]
    learned = set(run.table("learned").read()[schema.TEXT_HASH].to_pylist())
    assert not learned & set(hash64(run.table("certification").read()[schema.TEXT]).tolist())
    assert verify(run) == []


def part(table: TableDirectory) -> Path:
    return Path(table.path(table.require_manifest().parts[-1].name))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))


def lose_row(table: TableDirectory) -> None:
    """Of the last part a row is lost, all sums agreeing."""
    manifest, path = table.require_manifest(), part(table)
    rows = table.read_part(path.name)
    old = manifest.parts[-1]
    path.unlink()
    new = TableDirectory(table.uri).commit_part(path.name, rows.slice(1), counts=old.counts, labels=old.labels)
    table.write_manifest(
        manifest.model_copy(
            update={
                "parts": [*manifest.parts[:-1], new],
                "num_in": manifest.num_in - 1,
                "num_kept": manifest.num_kept - 1,
            }
        )
    )


DAMAGE: dict[str, Callable[[TableDirectory], object]] = {
    "a part deleted": lambda table: part(table).unlink(),
    "a bit flipped": lambda table: flip(part(table)),
    "the manifest deleted": lambda table: Path(table.path(MANIFEST)).unlink(),
    "all of it deleted": lambda table: shutil.rmtree(table.path()),
}
CASES = [(name, damage) for name in CERTIFIED for damage in DAMAGE]


def check_repaired(run: Run, expected: dict, name: str) -> None:
    findings = list(repair(run, IN_PROCESS))
    assert name in {finding.table for finding in findings}
    again = open_growing()
    assert verify(again) == []
    assert contents_of(again) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage"), CASES)
def test_damage_to_a_table_of_the_guarantee_is_found_and_made_again(films, oracle, name, damage):
    run = open_growing()
    expected = contents_of(run)
    DAMAGE[damage](run.table(name))
    check_repaired(run, expected, name)
    assert oracle.calls == []  # the answers are in the store


@pytest.mark.slow
@pytest.mark.parametrize(("name", "covered"), [("certificate", "certification"), ("decisions", "labels")])
def test_a_row_that_is_lost_with_all_sums_agreeing_is_found(films, name, covered):
    run = open_growing()
    expected = contents_of(run)
    lose_row(run.table(name))
    assert FindingKind.MISSING_RECORD in {finding.kind for finding in verify(run)}
    check_repaired(run, expected, covered)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["certification_responses", "escalated"])
@pytest.mark.parametrize("damage", ["a part deleted", "a bit flipped"])
def test_answers_that_are_lost_are_asked_again_and_nothing_else_changes(films, oracle, name, damage):
    run = open_growing()
    expected = contents_of(run)
    lost = run.table(name).require_manifest().answers[0]
    path = Path(run.table("answers").path(lost.name))
    if damage == "a part deleted":
        path.unlink()
    else:
        flip(path)
    check_repaired(run, expected, name="answers")
    assert 0 < len(oracle.calls) == lost.num_rows


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_file_that_does_not_belong_to_a_table_of_the_guarantee_is_found(films, name):
    run = open_growing()
    Path(run.table(name).path("notes.txt")).write_text("by hand")
    assert [(finding.kind, finding.table, finding.part) for finding in verify(run)] == [
        (FindingKind.UNEXPECTED_PART, name, "notes.txt")
    ]


@pytest.mark.slow
def test_killed_before_any_write_and_resumed_a_certified_run_has_the_same_tables(films):
    """A corpus that has grown, so that what was certified before is certified anew."""
    write(films / "corpus", "f")
    shutil.copytree(films, films.parent / "saved")
    assert start(films) == 0, (films / "log").read_text()
    num_writes = int((films / "writes").read_text())
    expected = contents_of(open_growing())
    for kill_before in sorted(random.Random(23).sample(range(num_writes // 2, num_writes), NUM_KILLS)):
        with in_folder(films.parent):
            shutil.rmtree(films)
            shutil.copytree("saved", films)
        with in_folder(films):
            assert start(films, kill_before) == -signal.SIGKILL
            assert start(films) == 0, (films / "log").read_text()
            run = open_growing()
            assert verify(run) == [], f"killed before write {kill_before}"
            assert contents_of(run) == expected, f"killed before write {kill_before}"
