"""Hashes of local files of any size, cached between starts."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from llambert.storage.atomic import write_atomically

# Larger files are hashed in blocks, by several threads: one core would take minutes for a corpus of 100 GB.
BLOCKS_ABOVE_BYTES = 1 << 30
BLOCK_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
_MAX_THREADS = 16
# Less than this is hashed as fast as a cached hash is found.
CACHE_FROM_BYTES = 64 << 20
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
            hashlib.file_digest(stream, lambda: digest)
            return
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as readers:
            starts = range(0, size, BLOCK_BYTES)
            for block in readers.map(lambda start: _block_digest(stream.fileno(), start), starts):
                digest.update(block)


def _block_digest(descriptor: int, start: int) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    place, end = start, start + BLOCK_BYTES
    while place < end and (chunk := os.pread(descriptor, min(CHUNK_BYTES, end - place), place)):
        digest.update(chunk)
        place += len(chunk)
    return digest.digest()


def cached_identity(names: Sequence[str], num_bytes: int, identity: Callable[[], str]) -> str:
    """``identity()``, which depends on the content of these files alone, or its cached value if they are unchanged.

    The files are the same if their names, sizes, inodes and times are. Among these is the time of the last change
    of the inode (``ctime``), which no program can set: an edit that keeps a file's size and restores its time of
    modification is found. (Not on a mount that has no such time, as some of FUSE.)
    """
    if num_bytes < CACHE_FROM_BYTES:
        return identity()
    started = time.time()
    key, latest = _state(names)
    place = cache_folder() / "identities" / key
    with suppress(OSError):  # not cached yet
        if (stored := place.read_text()).endswith("\n"):  # a lost write leaves an empty file
            return stored.strip()
    found = identity()
    is_settled = latest < started - SETTLED_AFTER_S and _state(names)[0] == key
    if is_settled:
        with suppress(OSError):  # a cache that cannot be written costs time alone
            write_atomically(LocalFileSystem(), str(place), f"{found}\n".encode())
    return found


def content_hashes(place: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """File -> 16 hexadecimal digits of its content; those of files that are unchanged since the last call are cached.

    ``place`` names the set of files, which may grow from one call to the next; ``sizes``: its files, and their bytes.
    Which files are unchanged: see ``cached_identity``.
    """
    is_cached = sum(sizes.values()) >= CACHE_FROM_BYTES
    table = cache_folder() / "hashes" / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
    known = _read_hashes(table) if is_cached else {}
    started = time.time()
    states = {name: _state([name]) for name in sizes} if is_cached else {}
    found = {name: hashed for name, (state, _) in states.items() if (hashed := known.get(name, {}).get(state))}
    missing = [name for name in sizes if name not in found]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as readers:
        found.update(zip(missing, readers.map(_content_hash, missing), strict=True))
    if is_cached and (missing or len(known) > len(sizes)):
        settled = [name for name, (_, latest) in states.items() if latest < started - SETTLED_AFTER_S]
        kept = [name for name in settled if name not in missing or _state([name])[0] == states[name][0]]
        _write_hashes(table, [(os.fsencode(name), states[name][0], found[name]) for name in kept])
    return found


def _content_hash(name: str) -> str:
    digest = hashlib.sha256()
    add_content(Path(name), digest)
    return digest.hexdigest()[:16]


_HASHES = pa.schema([("name", pa.binary()), ("state", pa.string()), ("hash", pa.string())])


def _read_hashes(table: Path) -> dict[str, dict[str, str]]:
    """File -> its state -> its hash; empty if nothing is cached, or the cache is damaged."""
    with suppress(OSError, pa.ArrowException, ValueError), pa.OSFile(str(table)) as file:
        columns = (column.to_pylist() for column in pa.ipc.open_file(file).read_all().select(_HASHES.names).columns)
        return {os.fsdecode(name): {state: hashed} for name, state, hashed in zip(*columns, strict=True)}
    return {}


def _write_hashes(table: Path, rows: list[tuple[bytes, str, str]]) -> None:
    sink = pa.BufferOutputStream()
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    with pa.ipc.new_file(sink, _HASHES) as writer:
        writer.write_table(pa.table(columns, schema=_HASHES))
    with suppress(OSError):  # a cache that cannot be written costs time alone
        write_atomically(LocalFileSystem(), str(table), sink.getvalue().to_pybytes())


def _state(names: Sequence[str]) -> tuple[str, float]:
    """A hash of the files' names, inodes, sizes and times, and the latest change of any of them."""
    digest, latest = hashlib.sha256(), 0.0
    for name in names:
        status = os.stat(name)
        numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(os.fsencode(name) + repr(numbers).encode())
        latest = max(latest, status.st_ctime)
    return digest.hexdigest()[:32], latest
