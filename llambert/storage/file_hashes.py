"""Hashes of whole local files, however large, and what they came to, remembered from one start to the next."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

# Larger files are hashed in blocks, by several threads: one core would take minutes for a corpus of 100 GB.
BLOCKS_ABOVE_BYTES = 1 << 30
BLOCK_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
_MAX_THREADS = 16
# Less than this is hashed in the time that it takes to find out what it came to before.
REMEMBER_FROM_BYTES = 64 << 20
# A change within a tick of the filesystem's clock leaves no trace in a file's times; FAT's tick is two seconds.
SETTLED_AFTER_S = 3.0


def cache_folder() -> Path:
    """Where this machine keeps what can be made again: ``LLAMBERT_CACHE``, by default ``~/.cache/llambert``."""
    return Path(os.environ.get("LLAMBERT_CACHE", "~/.cache/llambert")).expanduser()


def add_content(file: Path, digest: "hashlib._Hash") -> None:
    """Add a file's whole content to a hash: its bytes, or, of a large file, the hashes of its blocks."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= BLOCKS_ABOVE_BYTES:
            add_stream(stream, digest)
            return
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as readers:
            starts = range(0, size, BLOCK_BYTES)
            for block in readers.map(lambda start: _block_digest(stream.fileno(), start), starts):
                digest.update(block)


def add_stream(stream: IO[bytes], digest: "hashlib._Hash") -> None:
    """Add a stream's bytes to a hash."""
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)


def _block_digest(descriptor: int, start: int) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    place, end = start, start + BLOCK_BYTES
    while place < end and (chunk := os.pread(descriptor, min(CHUNK_BYTES, end - place), place)):
        digest.update(chunk)
        place += len(chunk)
    return digest.digest()


def remembered(names: Sequence[str], num_bytes: int, identity: Callable[[], str]) -> str:
    """``identity()``, a text that depends on the content of some files alone, or what it was when it was last asked.

    The files are the same if their names, sizes, inodes and times are. Among these is the time of the last change
    of the inode (``ctime``), which no program can set: an edit that keeps a file's size and restores its time of
    modification is found. (Not on a mount that has no such time, as some of FUSE.)
    """
    if num_bytes < REMEMBER_FROM_BYTES:
        return identity()
    started = time.time()
    key, latest = _state(names)
    place = cache_folder() / "identities" / key
    with suppress(OSError):  # not there yet
        if (stored := place.read_text()).endswith("\n"):  # a lost write leaves an empty file
            return stored.strip()
    found = identity()
    is_settled = latest < started - SETTLED_AFTER_S and _state(names)[0] == key
    if is_settled:
        with suppress(OSError):  # a cache that cannot be written costs time alone
            _store(place, f"{found}\n")
    return found


def _state(names: Sequence[str]) -> tuple[str, float]:
    """A hash of what the filesystem says of the files, and when the last of them was changed."""
    digest, latest = hashlib.sha256(), 0.0
    for name in names:
        status = os.stat(name)
        numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(os.fsencode(name) + repr(numbers).encode())
        latest = max(latest, status.st_ctime)
    return digest.hexdigest()[:32], latest


def _store(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, place)
