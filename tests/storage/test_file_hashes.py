"""The identity of large files: whole content, in blocks, and remembered while nothing changes them."""

import hashlib
import os

import pytest

from llambert.storage import file_hashes
from llambert.storage.reference import content_identity


@pytest.fixture(autouse=True)
def small_limits(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "BLOCKS_ABOVE_BYTES", 1 << 12)
    monkeypatch.setattr(file_hashes, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(file_hashes, "CHUNK_BYTES", 300)
    monkeypatch.setattr(file_hashes, "CACHE_FROM_BYTES", 1 << 11)
    monkeypatch.setattr(file_hashes, "SETTLED_AFTER_S", -1.0)


def edit(path, place: int) -> None:
    """Change one byte; the file keeps its size and its time of modification."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("size", [100, 3_000, 4_096, 4_097, 100_000])
def test_any_edit_of_a_file_changes_its_identity_though_size_and_time_stay(tmp_path, size):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(os.urandom(size))
    seen = {content_identity(str(path))}
    for place in [0, size // 3, size // 2, size - 1]:
        edit(path, place)
        seen.add(content_identity(str(path)))
    assert len(seen) == 5


def test_blocks_are_hashed_in_their_order(tmp_path):
    (tmp_path / "a").write_bytes(b"1" * 1024 + b"2" * 1024 + b"3" * 3000)
    (tmp_path / "b").write_bytes(b"2" * 1024 + b"1" * 1024 + b"3" * 3000)
    digests = []
    for name in "ab":
        digest = hashlib.sha256()
        file_hashes.add_content(tmp_path / name, digest)
        digests.append(digest.hexdigest())
    assert digests[0] != digests[1]


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(os.urandom(8_000))
    first = content_identity(str(folder))

    def refuse(file, digest):
        raise AssertionError(f"{file} is read again")

    monkeypatch.setattr("llambert.storage.reference.add_content", refuse)
    assert content_identity(str(folder)) == first
    (folder / "c").write_bytes(b"new")
    with pytest.raises(AssertionError, match="is read again"):
        content_identity(str(folder))


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashes, "SETTLED_AFTER_S", 60.0)
    (tmp_path / "corpus").write_bytes(os.urandom(8_000))
    content_identity(str(tmp_path / "corpus"))
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_or_was_cut_off_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "corpus").write_bytes(os.urandom(8_000))
    first = content_identity(str(tmp_path / "corpus"))
    [stored] = (tmp_path / "cache" / "identities").iterdir()
    stored.write_text("")
    assert content_identity(str(tmp_path / "corpus")) == first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path / "file" / "cache"))
    assert content_identity(str(tmp_path / "corpus")) == first
