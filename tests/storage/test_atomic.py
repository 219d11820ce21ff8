"""A file is there whole or not at all, on local disk and on a real S3 server."""

import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from llambert import schema
from llambert.errors import InputError
from llambert.storage.atomic import create_atomically, remove_temporaries, write_atomically
from llambert.storage.run_directory import RunDirectory
from tests.storage.test_run_directory import NAME, labels


def test_create_atomically_says_who_came_first(table):
    table.filesystem.makedirs(table.path(), exist_ok=True)
    assert create_atomically(table.filesystem, table.path("x"), b"first") is True
    assert create_atomically(table.filesystem, table.path("x"), b"second") is False
    assert table.filesystem.cat_file(table.path("x")) == b"first"


def test_write_atomically_replaces(table):
    write_atomically(table.filesystem, table.path("x"), b"first")
    write_atomically(table.filesystem, table.path("x"), b"second")
    assert table.filesystem.cat_file(table.path("x")) == b"second"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    import llambert.storage.atomic as module

    table = RunDirectory(str(tmp_path / "run")).table("labels", "abc", schema.LABELS)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        table.commit_part(NAME, labels("a"))
    assert list(Path(table.path()).iterdir()) == []


def test_of_a_folder_in_which_others_write_old_temporary_files_alone_are_removed(tmp_path):
    old, new, part = tmp_path / ".a.1.tmp", tmp_path / "below" / ".a.2.tmp", tmp_path / "a"
    new.parent.mkdir()
    for path in (old, new, part):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    os.utime(new)
    remove_temporaries(LocalFileSystem(), str(tmp_path), older_than_s=60)
    assert (old.exists(), new.exists(), part.exists()) == (False, True, True)
    remove_temporaries(LocalFileSystem(), str(tmp_path), of="b")
    assert new.exists()
    remove_temporaries(LocalFileSystem(), str(tmp_path), of="a")
    assert (new.exists(), part.exists()) == (False, True)
    remove_temporaries(LocalFileSystem(), str(tmp_path / "nowhere"))
