"""A run's files and tables, on local disk and on a real S3 server."""

import json
import os
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from llambert import schema
from llambert.errors import InputError
from llambert.storage.atomic import write_atomically
from llambert.storage.locations import open_filesystem
from llambert.storage.manifest import Manifest
from llambert.storage.reference import content_identity
from llambert.storage.run_directory import RunDirectory, TableDirectory
from tests.fixtures.s3_server import LIMITED_KEY, S3Server

NAME = "part-00000.parquet"


def labels(*ids: str, score: float = 0.75) -> pa.Table:
    return pa.table([list(ids), ["positive"] * len(ids), [score] * len(ids)], schema=schema.LABELS)


def manifest(**values) -> Manifest:
    return Manifest(
        **{"stage": "label", "fingerprint": "abc", "num_in": 1, "num_kept": 1, "wall_seconds": 0.0, **values}
    )


def test_a_part_is_read_back_as_it_was_written(table):
    counted = {"counts": {"num_tokens": 9}, "labels": {"positive": 2}, "rejected": {"null_text": 1}}
    part = table.commit_part(NAME, labels("a", "b"), **counted)
    assert (part.name, part.num_rows, part.num_in) == (NAME, 2, 3)
    assert part.model_dump(include=set(counted)) == counted
    assert part.num_bytes == len(table.filesystem.cat_file(table.path(NAME)))
    assert table.read_part(NAME).equals(labels("a", "b"))
    assert table.read_part(NAME, ["label"]).column_names == ["label"]
    assert table.committed_part(NAME) == part
    assert table.part_names() == [NAME]


def test_the_same_rows_give_the_same_bytes(table):
    part = table.commit_part(NAME, labels("a", "b"), counts={"n": 1})
    assert table.commit_part("part-00001.parquet", labels("a", "b"), counts={"n": 1}).sha256 == part.sha256


def test_the_first_writer_wins_and_the_second_is_told_what_is_there(table):
    first = table.commit_part(NAME, labels("a", score=0.75), counts={"n": 1})
    second = table.commit_part(NAME, labels("a", "b", score=0.5), counts={"n": 2})
    assert second == first
    assert table.read_part(NAME).equals(labels("a", score=0.75))


def test_of_many_racing_writers_one_wins_and_all_agree_which(table):
    barrier = threading.Barrier(8)
    outcomes, errors = [], []

    def write(number: int) -> None:
        writer = TableDirectory(table.uri, schema.LABELS)
        barrier.wait()
        try:
            outcomes.append(writer.commit_part(NAME, labels(f"writer-{number}"), counts={"writer": number}))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({part.sha256 for part in outcomes}) == 1
    winner = outcomes[0].counts["writer"]
    assert table.read_part(NAME).equals(labels(f"writer-{winner}"))
    assert table.part_names() == [NAME]


def test_part_names_are_sorted_and_hold_nothing_but_parts(table):
    assert table.part_names() == []
    for name in ("part-00002.parquet", "part-00000.parquet"):
        table.commit_part(name, labels("a"))
    table.write_progress({"done": 1})
    table.write_manifest(manifest())
    write_atomically(table.filesystem, table.path("README.md"), b"card")
    assert table.part_names() == ["part-00000.parquet", "part-00002.parquet"]


def test_a_part_committed_by_another_process_is_seen_at_once(table):
    assert table.part_names() == []
    TableDirectory(table.uri).commit_part(NAME, labels("a"))
    assert table.part_names() == [NAME]


def test_wrong_columns_are_refused(table):
    with pytest.raises(AssertionError, match="columns"):
        table.commit_part(NAME, labels("a").rename_columns(["id", "label", "score"]))
    assert table.part_names() == []


def test_extra_columns_may_follow_those_of_the_schema(table):
    table.commit_part(NAME, labels("a").append_column("year", pa.array([1999])))
    assert table.read_part(NAME)["year"].to_pylist() == [1999]


def test_a_table_is_complete_with_its_manifest_and_not_before(table):
    assert table.read_manifest() is None
    part = table.commit_part(NAME, labels("a"), counts={"n": 1})
    with pytest.raises(InputError, match=r"is not complete: it has no manifest\.json"):
        table.require_manifest()
    written = table.write_manifest(manifest(parts=[part], counts={"n": 1}))
    assert table.read_manifest() == written
    assert table.read().equals(labels("a"))
    assert table.read(["score"]).column_names == ["score"]


def test_a_table_without_parts_reads_as_empty(table):
    table.write_manifest(manifest(num_in=0, num_kept=0))
    assert table.read().equals(schema.LABELS.empty_table())
    assert table.read(["label"]).schema.names == ["label"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage": "label"}', b"\xff", b"null"])
def test_a_damaged_manifest_is_an_error_in_one_line_not_an_unfinished_table(table, content):
    write_atomically(table.filesystem, table.path("manifest.json"), content)
    with pytest.raises(InputError, match=r"^\S+manifest.json is damaged[^\n]*$"):
        table.read_manifest()


def test_a_manifest_whose_sums_contradict_each_other_is_damaged(table):
    values = json.loads(manifest().model_dump_json()) | {"num_in": 5}
    write_atomically(table.filesystem, table.path("manifest.json"), json.dumps(values).encode())
    with pytest.raises(InputError, match="is damaged"):
        table.read_manifest()


def test_progress_is_read_back_and_empty_before(table):
    assert table.read_progress() == {}
    table.write_progress({"done": 3, "total": 5})
    assert table.read_progress() == {"done": 3, "total": 5}


def test_files_of_the_run_itself(table):
    run = RunDirectory(table.uri)
    with pytest.raises(InputError, match="is this a run directory"):
        run.read("recipe.yaml")
    run.write("recipe.yaml", "name: x\n")
    assert run.read("recipe.yaml") == "name: x\n"


def test_a_table_directory_travels_to_a_worker_without_its_open_filesystem(table):
    import pickle

    table.part_names()  # opens it
    copy = pickle.loads(pickle.dumps(table))
    assert (copy.uri, copy.schema) == (table.uri, table.schema)
    assert copy.part_names() == []


def test_what_a_killed_writer_left_is_no_part_and_is_swept_when_the_table_is_complete(tmp_path):
    table = RunDirectory(str(tmp_path / "run")).table("labels", "abc", schema.LABELS)
    table.commit_part(NAME, labels("a"))
    leftover = Path(table.path(f".{NAME}.0123.tmp"))
    leftover.write_bytes(b"PAR1 half a part")
    assert table.part_names() == [NAME]
    table.write_manifest(manifest())
    assert not leftover.exists()


@pytest.mark.s3
def test_what_another_process_writes_after_a_listing_is_seen(s3: S3Server):
    table = RunDirectory("s3://llambert-test/two").table("labels", "abc", schema.LABELS)
    table.commit_part(NAME, labels("a"))
    assert table.part_names() == [NAME]
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file("llambert-test/two/labels/abc/progress.json", b'{"done": 1}')
    assert table.read_progress() == {"done": 1}


@pytest.mark.s3
def test_wrong_credentials_are_an_error_not_an_empty_table(s3: S3Server, monkeypatch):
    table = RunDirectory("s3://llambert-test/credentials").table("labels", "abc", schema.LABELS)
    table.commit_part(NAME, labels("a"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    table.filesystem.clear_instance_cache()
    stranger = TableDirectory(table.uri, schema.LABELS)
    with pytest.raises(InputError, match=r"^storage: s3://llambert-test/credentials"):
        stranger.part_names()
    with pytest.raises(InputError, match=r"^storage: s3://llambert-test/credentials"):
        stranger.read_manifest()
    table.filesystem.clear_instance_cache()


@pytest.mark.s3
def test_a_missing_bucket_is_an_error_when_a_part_is_written(s3: S3Server, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", LIMITED_KEY)
    open_filesystem("s3://no-such-bucket")[0].clear_instance_cache()
    table = RunDirectory("s3://no-such-bucket/run").table("labels", "abc", schema.LABELS)
    with pytest.raises(InputError, match=r"^storage: s3://no-such-bucket"):
        table.commit_part(NAME, labels("a"))
    table.filesystem.clear_instance_cache()


@pytest.mark.s3
@pytest.mark.slow
def test_what_was_acknowledged_survives_a_killed_and_restarted_server(s3: S3Server):
    table = RunDirectory("s3://llambert-test/killed").table("labels", "abc", schema.LABELS)
    parts = [table.commit_part(f"part-{n:05d}.parquet", labels(f"r{n}")) for n in range(10)]
    s3.kill()
    s3.start()
    assert table.part_names() == [part.name for part in parts]
    assert [table.committed_part(part.name) for part in parts] == parts
    assert table.commit_part(NAME, labels("late")) == parts[0]


@pytest.mark.parametrize("name", ["runs [a-z]*", "a::b", "what?", "{x}", "50%25 #;é"])
@pytest.mark.parametrize("store", ["local", "memory"])
def test_a_run_lives_in_a_folder_of_any_name(tmp_path, store, name):
    place = str(tmp_path / name) if store == "local" else f"memory://{name}"
    if store == "memory" and "::" in name:
        pytest.skip("fsspec takes :: in a URI for a chain of filesystems")
    table = RunDirectory(place).table("labels", "abc", schema.LABELS)
    part = table.commit_part(NAME, labels("a"))
    assert table.part_names() == [NAME]
    table.write_manifest(manifest(num_kept=1, parts=[part]))
    assert table.read().equals(labels("a"))
    assert content_identity(table.uri)


def test_storage_whose_path_is_not_utf_8_is_one_line(tmp_path, monkeypatch):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    monkeypatch.chdir(os.fsdecode(folder))
    with pytest.raises(InputError, match=r"caf\\xE9/runs/x is not UTF-8; choose another folder"):
        RunDirectory("runs/x").write("recipe.yaml", "")


def test_a_new_run_directory_is_its_owners_alone_and_one_that_exists_keeps_its_permissions(tmp_path):
    directory = RunDirectory(str(tmp_path / "runs" / "mine"))
    directory.claim()
    assert (tmp_path / "runs" / "mine").stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    RunDirectory(str(shared)).claim()
    assert shared.stat().st_mode & 0o777 == 0o755
