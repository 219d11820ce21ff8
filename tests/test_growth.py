"""A corpus grows: what is new is read, annotated and labelled, what did not change stays byte for byte."""

import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llambert.cli import app
from llambert.corpora import files
from llambert.errors import InputError
from llambert.execution.in_process import IN_PROCESS
from llambert.integrity.repair import repair
from llambert.integrity.status import render, status
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from llambert.stages.ingest import IngestFile, ingest
from llambert.stages.label import LabelPart
from llambert.storage.generations import Superseded
from tests.fixtures.growing_corpora import (
    GROWING,
    ROWS_PER_FILE,
    contents,
    finished_run,
    key_of,
    open_growing,
    rows,
    states,
    write,
    write_recipe,
)
from tests.fixtures.killed_growth import start

NUM_KILLS = 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over five files that is finished."""
    with finished_run(tmp_path_factory.mktemp("finished")) as run:
        yield run


@pytest.fixture
def corpus(finished, tmp_path, monkeypatch):
    """The corpus of a copy of that run, in whose folder the test is."""
    return finished.enter_copy(tmp_path, monkeypatch)


@pytest.fixture
def few(tmp_path, monkeypatch):
    """The corpus, two files of it, of a run that has not begun."""
    write_recipe(tmp_path, num_files=2)
    monkeypatch.chdir(tmp_path)
    return Path("corpus")


def append(folder):
    write(folder, "f")
    return set("abcde"), 5 * ROWS_PER_FILE, "1 file is new", f"{ROWS_PER_FILE} new, {5 * ROWS_PER_FILE} as before"


def change(folder):
    write(folder, "b", [*rows("b"), *rows("more", 3)])
    return set("acde"), 5 * ROWS_PER_FILE, "1 file has changed", f"3 new, {5 * ROWS_PER_FILE} as before"


def remove(folder):
    (folder / "c.csv").unlink()
    return set("abde"), 4 * ROWS_PER_FILE, "1 file was removed", f"{ROWS_PER_FILE} gone, {4 * ROWS_PER_FILE} as before"


def rename(folder):
    (folder / "c.csv").rename(folder / "z.csv")
    same = 4 * ROWS_PER_FILE
    return set("abde"), same, "1 file is new, 1 was removed", f"{ROWS_PER_FILE} new, {ROWS_PER_FILE} gone, {same} as"


def correct_gold(folder):
    texts = rows("d")
    write(folder, "d", texts, ["positive"] * len(texts))
    return set("abce"), 5 * ROWS_PER_FILE, "1 file has changed", f"{5 * ROWS_PER_FILE} as before"


def replace_all(folder):
    for name in "abcde":
        write(folder, name, rows(f"other {name}"))
    num = 5 * ROWS_PER_FILE
    return set(), 0, "5 files have changed", f"{num} new, {num} gone"


@pytest.mark.parametrize("grow", [append, change, remove, rename, correct_gold, replace_all])
def test_what_did_not_change_stays_byte_for_byte_and_the_rest_is_new(corpus, monkeypatch, capsys, grow):
    before = open_growing()
    old, keys = {name: states(before, name) for name in GROWING}, {name: key_of(before, name) for name in "abcde"}
    capsys.readouterr()
    same, num_same, of_files, of_records = grow(corpus)
    opened = []
    monkeypatch.setattr(files, "open_text", lambda uri, *rest: opened.append(Path(uri).stem) or files_open(uri, *rest))
    run = open_growing()
    pipeline(run, IN_PROCESS)
    assert not set(opened) & same
    run = open_growing()
    for name in GROWING:
        new, kept = states(run, name), {keys[one] for one in same}
        stayed = {part: state for part, state in old[name].items() if part.split("-")[1] in kept}
        assert new.items() >= stayed.items()
        assert set(new) == {part.name for part in run.table(name).require_manifest().parts}
        assert bool(stayed) == bool(same and name != "duplicates")
    said = capsys.readouterr().out
    assert f"ingest: since the last run {of_files}" in said
    assert of_records in said
    assert run.table("corpus").require_manifest().growth.num_records_same == num_same
    assert run.table("labels").require_manifest().growth.since == before.generation
    assert verify(run) == []
    ids = [row["record_id"] for row in contents(run, "labels")["labels"]]
    assert ids == [row["record_id"] for row in contents(run, "corpus")["corpus"]]
    page = (Path(run.table("report").path()) / "report.md").read_text()
    assert "What is new since last time" in page
    assert of_files in page
    fresh = open_growing("storage=fresh")
    ingest(fresh, IN_PROCESS)
    grown = GROWING[:4]
    assert contents(run, *grown) == contents(fresh, *grown)


files_open = files.open_text


def test_a_corpus_that_is_as_before_again_finds_its_tables(corpus, finished):
    first = open_growing()
    whole = {name: contents(first, name) for name in (*GROWING, "sample", "silver")}
    write(corpus, "b", rows("b", 10))
    pipeline(open_growing(), IN_PROCESS)
    num_calls = len(finished.annotator.calls)
    write(corpus, "b")
    again = open_growing()
    pipeline(again, IN_PROCESS)
    assert again.generation == first.generation
    assert {name: contents(again, name) for name in whole} == whole
    assert len(finished.annotator.calls) == num_calls
    assert verify(again) == []


def test_a_killed_ingest_leaves_out_the_files_that_are_whole(few, monkeypatch):
    write(few, "c")
    run, made = open_growing(), []

    class Killed(Exception):
        pass

    def interrupted(self, unit):
        if len(made) == 2:
            raise Killed
        made.append(unit["name"])
        return call(self, unit)

    call = IngestFile.__call__
    monkeypatch.setattr(IngestFile, "__call__", interrupted)
    with pytest.raises(RuntimeError, match="Killed"):
        ingest(run, IN_PROCESS)
    made.clear()
    third = next(name for name in run.table("corpus").part_names() if name.endswith("000002.parquet"))
    run.table("corpus").filesystem.rm_file(run.table("corpus").path(third))  # of one file the last part is missing
    ingest(open_growing(), IN_PROCESS)
    assert len(made) == 2
    assert ingest(run, IN_PROCESS).counts["num_files"] == 3


def test_a_start_that_is_older_than_another_stops_and_leaves_its_tables_alone(corpus):
    older = open_growing()
    write(corpus, "b", rows("b", 30))
    newer = open_growing()
    pipeline(newer, IN_PROCESS)
    before = {name: states(newer, name) for name in GROWING}
    with pytest.raises(Superseded, match=r"another start works on what it is now; start the same command again"):
        ingest(older, IN_PROCESS)
    with pytest.raises(Superseded):
        older.complete("corpus", newer.table("corpus").require_manifest().parts)
    rows_of = newer.table("corpus").read_part(newer.table("corpus").part_names()[0])
    with pytest.raises(Superseded):
        older.table("corpus").commit_part("part-0123456789ab-0123456789ab-000000.parquet", rows_of)
    assert {name: states(newer, name) for name in GROWING} == before
    assert verify(newer) == []


def test_two_generations_at_work_at_once_leave_the_tables_of_the_newer_one(corpus, monkeypatch):
    write(corpus, "f")
    older = open_growing()
    label_part, reached, go_on = LabelPart.__call__, threading.Event(), threading.Event()

    def waiting(self, unit):
        if threading.current_thread().name == "older":
            reached.set()
            assert go_on.wait(120)
        return label_part(self, unit)

    monkeypatch.setattr(LabelPart, "__call__", waiting)
    failures: list[BaseException] = []

    def start_older():
        try:
            pipeline(older, IN_PROCESS)
        except Exception as error:
            failures.append(error)
        reached.set()

    thread = threading.Thread(target=start_older, name="older")
    thread.start()
    assert reached.wait(120)
    (corpus / "a.csv").unlink()
    newer = open_growing()
    pipeline(newer, IN_PROCESS)
    go_on.set()
    thread.join(120)
    assert [type(error) for error in failures] == [Superseded]
    assert verify(newer) == []
    newer = open_growing()
    assert {row["record_id"] for row in contents(newer, "labels")["labels"]} == {
        row["record_id"] for row in contents(newer, "corpus")["corpus"]
    }


def test_a_source_that_changes_while_it_is_read_is_refused_and_read_anew(few, monkeypatch):
    call = IngestFile.__call__

    def meanwhile(self, unit):
        if unit["name"] == "b.csv":
            write(few, "b", rows("b", 5))
        return call(self, unit)

    monkeypatch.setattr(IngestFile, "__call__", meanwhile)
    with pytest.raises(InputError, match="changed while it was read"):
        ingest(open_growing(), IN_PROCESS)
    monkeypatch.setattr(IngestFile, "__call__", call)
    write(few, "b")
    assert ingest(run := open_growing(), IN_PROCESS).num_kept == 2 * ROWS_PER_FILE
    assert len(contents(run, "corpus")["corpus"]) == 2 * ROWS_PER_FILE


def test_verify_status_and_repair_of_a_finished_run_whose_source_has_grown(corpus):
    run = open_growing()
    run.fingerprints  # noqa: B018  as they are now
    write(corpus, "f")
    (corpus / "a.csv").unlink()
    note = "the source has changed since it was read: 1 file is new, 1 was removed; the next start reads what is new"
    shown = CliRunner().invoke(app, ["verify", "recipe.yaml"])
    assert shown.output.splitlines() == [
        f"corpus: {note}", "verified: every part is there and whole, every record once",
    ]  # fmt: skip
    text = render(status(open_growing()))
    assert f"corpus: {note}" in text
    assert "not started" not in text
    assert list(repair(open_growing(), IN_PROCESS)) == []
    damaged = Path(run.table("labels").path(run.table("labels").part_names()[0]))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damage was set aside.*start `llambert run`"):
        list(repair(open_growing(), IN_PROCESS))
    now = open_growing()
    pipeline(now, IN_PROCESS)
    assert verify(now) == []
    shutil.rmtree(corpus)
    assert verify(now) == []
    assert "the source cannot be read now" in render(status(now))


@pytest.mark.parametrize("name", ["corpus", "labels"])
def test_the_report_of_a_repaired_run_says_what_was_new_last_time(corpus, name):
    write(corpus, "f")
    (corpus / "a.csv").unlink()
    pipeline(open_growing(), IN_PROCESS)
    run = open_growing()
    before, table = run.table(name).require_manifest(), run.table(name)
    section = section_on_growth(run)
    assert "labels | 60 | 0 | 60 | 240" in section
    damaged = Path(table.path(next(part for part in table.part_names() if key_of(run, "c") in part)))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert list(repair(run, IN_PROCESS)) != []
    run = open_growing()
    assert run.table(name).require_manifest().growth == before.growth
    assert section_on_growth(run) == section
    assert verify(run) == []
    write(corpus, "g", rows("g", 5))  # and the next time it is what is new since then
    pipeline(open_growing(), IN_PROCESS)
    grown = open_growing().table(name).require_manifest().growth
    assert (grown.since, grown.num_records_new, grown.num_records_same) == (before.generation, 5, 300)


def section_on_growth(run) -> str:
    """The report's section on what is new since last time."""
    page = run.table("report").read_file("report.md").decode()
    return page.partition("## What is new since last time")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_killed_before_any_write_or_removal_and_resumed_a_growing_run_has_the_same_tables(corpus, monkeypatch):
    write(corpus, "f")
    write(corpus, "b", rows("b", 40))
    (corpus / "a.csv").unlink()
    shutil.copytree(".", "../saved")
    folder = Path.cwd()
    assert start(folder) == 0
    num_writes = int(Path("writes").read_text())
    names = (*GROWING, "sample", "silver", "rejects")
    tables = contents(open_growing(), *names)
    for kill_before in sorted(random.Random(19).sample(range(1, num_writes), NUM_KILLS)):
        monkeypatch.chdir(folder.parent)
        shutil.rmtree(folder)
        shutil.copytree("saved", folder)
        monkeypatch.chdir(folder)
        assert start(folder, kill_before) == -signal.SIGKILL
        assert start(folder) == 0, Path("log").read_text()
        run = open_growing()
        assert verify(run) == [], f"killed before write {kill_before}"
        assert contents(run, *names) == tables, f"killed before write {kill_before}"
        for name in GROWING:
            assert set(states(run, name)) == {part.name for part in run.table(name).require_manifest().parts}


def test_duplicates_follow_the_files_that_come_and_go(few):
    run = open_growing()
    ingest(run, IN_PROCESS)
    assert contents(run, "duplicates") == {"duplicates": []}
    first, copied = rows("a")[3], [*rows("c", 5), rows("a")[3]]
    write(few, "c", copied)
    ingest(run := open_growing(), IN_PROCESS)
    [pair] = contents(run, "duplicates")["duplicates"]
    texts = {row["record_id"]: row["text"] for row in contents(run, "corpus")["corpus"]}
    assert texts[pair["record_id"]] == texts[pair["duplicate_of"]] == first
    assert pair["record_id"].startswith(key_of(run, "c"))
    (few / "a.csv").unlink()
    ingest(run := open_growing(), IN_PROCESS)
    assert contents(run, "duplicates") == {"duplicates": []}
    assert first in {row["text"] for row in contents(run, "corpus")["corpus"]}
    assert len(run.table("duplicates").part_names()) == 1


def test_an_id_that_a_new_file_repeats_is_refused_and_the_earlier_tables_stay(few):
    ids = "corpus.columns.record_id=text"
    before = open_growing(ids)
    ingest(before, IN_PROCESS)
    old = states(before, "corpus")
    write(few, "c", rows("a"))
    with pytest.raises(InputError, match="60 record IDs are not unique"):
        ingest(open_growing(ids), IN_PROCESS)
    (few / "c.csv").unlink()
    ingest(now := open_growing(ids), IN_PROCESS)
    assert states(now, "corpus") == old
    assert verify_growing(now) == []


def verify_growing(run) -> list:
    return [finding for finding in verify(run) if finding.table in GROWING[:4]]


def test_the_sample_of_a_grown_corpus_holds_the_records_of_before_but_for_those_that_new_ones_displace(corpus):
    before = contents(open_growing(), "sample")
    write(corpus, "f", rows("f", 30))
    pipeline(run := open_growing(), IN_PROCESS)
    then, now = ({row["record_id"] for row in of["sample"]} for of in (before, contents(run, "sample")))
    key = key_of(run, "f")
    assert len(then) == len(now) == 48
    assert all(record_id.startswith(key) for record_id in now - then)
    assert 1 <= len(now - then) <= 12  # about a tenth
