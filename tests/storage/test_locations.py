import os

import fsspec
import pytest

from llambert.errors import InputError
from llambert.storage.locations import (
    copy_folder,
    move_file,
    open_binary,
    open_filesystem,
    open_location,
    remove_folder,
)


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.mark.parametrize("name", ["a::b", "file:x", "data:x", "100%25", "#1;", "~", "a [b]*?", "{a,b}", "déjà"])
def test_a_local_name_is_taken_literally(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("content")
    filesystem, path = open_location(name)
    assert path == str(tmp_path / name)
    for uri in [name, path, filesystem.unstrip_protocol(path)]:
        with open_binary(uri) as stream:
            assert stream.read() == b"content"


def test_a_tilde_is_the_home_folder_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_location("~/runs")[1] == str(tmp_path / "runs")


def test_removing_a_folder_removes_nothing_that_its_name_matches_as_a_pattern(memory):
    memory.pipe({"/runs/a*/x": b"1", "/runs/a*/b/y": b"2", "/runs/ab/x": b"3"})
    remove_folder(memory, "/runs/a*")
    assert memory.find("/runs") == ["/runs/ab/x"]
    remove_folder(memory, "/runs/nothing")


def test_a_local_folder_that_is_not_there_is_removed_already(tmp_path):
    (tmp_path / "a [b]" / "c").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    filesystem, path = open_location(str(tmp_path / "a [b]"))
    remove_folder(filesystem, path)
    remove_folder(filesystem, path)
    assert os.listdir(tmp_path) == ["ab"]


def test_a_file_is_moved_by_its_literal_name(memory, tmp_path):
    memory.pipe({"/run [1]/part": b"1", "/run 1/part": b"2"})
    move_file(memory, "/run [1]/part", "/run [1]/aside/part")
    assert memory.cat_file("/run [1]/aside/part") == b"1"
    assert memory.find("/run 1") == ["/run 1/part"]
    copy_folder(memory, "/run [1]", tmp_path / "copy")
    assert (tmp_path / "copy" / "aside" / "part").read_bytes() == b"1"


def test_storage_that_cannot_be_opened_is_one_line():
    with pytest.raises(InputError, match=r"^nonsense://x: this storage cannot be opened"):
        open_filesystem("nonsense://x")


@pytest.mark.s3
def test_removing_a_folder_of_an_object_store_leaves_nothing_of_it_and_its_neighbour_alone(s3):
    filesystem, path = open_filesystem("s3://llambert-test/remove [a-z]")
    for name in ["x/one", "x/y/two", "three"]:
        filesystem.pipe_file(f"{path}/{name}", b"1")
    filesystem.pipe_file("llambert-test/remove a/one", b"1")
    remove_folder(filesystem, path)
    remove_folder(filesystem, path)
    assert filesystem.find(path) == []
    assert not filesystem.exists(path)
    assert filesystem.find("llambert-test/remove a") == ["llambert-test/remove a/one"]


@pytest.mark.parametrize("put", ["file", "link"])
def test_what_is_in_the_place_of_a_folder_is_removed_with_it(tmp_path, put):
    (tmp_path / "kept").mkdir()
    place = tmp_path / "training"
    place.touch() if put == "file" else place.symlink_to("kept")
    filesystem, path = open_filesystem(str(place))
    remove_folder(filesystem, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
