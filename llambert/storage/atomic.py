"""Files that are there whole or not at all, whatever is killed and however many write them at once."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec
from fsspec.spec import AbstractBufferedFile

from llambert.storage.locations import is_local


def create_atomically(filesystem: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
    """Create ``path`` with ``content``, all of it or nothing; False if it is there already.

    Locally: a synced temporary file, then a hard link, which fails where the name exists. On S3: one PUT
    with ``If-None-Match: *`` (s3fs raises ``OSError(EINVAL)`` for the 412 of a lost race).
    """
    if is_local(filesystem):
        temporary = _write_temporary(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(Path(path).parent)
        return True
    if filesystem.exists(path):
        return False
    try:
        filesystem.pipe_file(path, content, mode="create")
    except OSError:
        if filesystem.exists(path):
            return False
        raise
    return True


def write_atomically(filesystem: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    """Write or replace ``path``, all of it or nothing."""
    if is_local(filesystem):
        os.replace(_write_temporary(path, content), path)
        _sync_folder(Path(path).parent)
    else:
        filesystem.pipe_file(path, content)


@contextlib.contextmanager
def written_atomically(filesystem: fsspec.AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """``write_atomically`` for a content that is not in memory: a stream, dropped if an exception leaves the block."""
    if is_local(filesystem):
        temporary = _temporary_for(path)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(Path(path).parent)
        return
    stream = filesystem.open(path, "wb")
    try:
        yield stream
    except BaseException:
        if isinstance(stream, AbstractBufferedFile):
            stream.closed = True  # to close it, as it does when it is collected, is to store what was written so far
        with contextlib.suppress(Exception):  # the store may be what failed
            stream.discard()
        raise
    stream.close()


def remove_temporaries(
    filesystem: fsspec.AbstractFileSystem, folder: str, of: str = "", older_than_s: float = 0.0
) -> None:
    """Remove what killed writers left in ``folder`` of files whose names begin with ``of``.

    ``older_than_s``: seconds since the last write into a file, for a folder in which others may be writing now.
    """
    if not is_local(filesystem):
        return  # object stores make objects visible whole; nothing temporary is left behind
    for leftover in Path(folder).rglob(f".{of}*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # its writer has finished
            if not older_than_s or leftover.stat().st_mtime < time.time() - older_than_s:
                leftover.unlink()


def _write_temporary(path: str, content: bytes) -> Path:
    temporary = _temporary_for(path)
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:  # a full disk: half a part must not fill it further
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary_for(path: str) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
