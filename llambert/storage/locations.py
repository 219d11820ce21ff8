"""Local paths and URIs as the filesystem and the path on it: literally, never as patterns."""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llambert.errors import InputError
from llambert.printable import SURROGATE
from llambert.section import URL_SECRET
from llambert.urls import holds_secret

_LOCAL_SCHEME = "file://"
_S3_ATTEMPTS = 10  # with botocore's waits, of 20 s at most and half of that on average


class StoredFiles(LocalFileSystem):
    """Local files, and nothing else: ``OSError(ENXIO)`` for what would be read without end, or waited for."""

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            kind = os.stat(path).st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise OSError(errno.ENXIO, "it is a pipe, a socket or a device", path)
        return super()._open(path, mode, *arguments, **options)


def open_location(uri: str, **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI, made with ``options`` unless it is local, and the path on it.

    It keeps no listing: that would hide what another process has written since, from listings and reads alike. What has
    no ``://`` is a local path, whatever characters it holds: fsspec would take ``a::b`` for two URIs
    and drop ``file:`` from the start of a name. ``InputError`` for a URI that holds a secret.
    """
    if uri.startswith(_LOCAL_SCHEME) or "://" not in uri:
        path = uri.removeprefix(_LOCAL_SCHEME)
        if not os.path.lexists(path):
            path = os.path.expanduser(path)
        return LocalFileSystem(), os.path.abspath(path)
    if holds_secret(uri):
        raise InputError(f"{uri}: {URL_SECRET}")
    filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    return filesystem, path


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI and the path on it, literally; ``InputError`` in one line if it cannot be opened.

    Requests to S3 are tried for about a minute (or ``AWS_MAX_ATTEMPTS``): a busy server costs time, not the run.
    """
    options: dict[str, Any] = {}
    if uri.startswith("s3://") and "AWS_MAX_ATTEMPTS" not in os.environ:
        options["config_kwargs"] = {"retries": {"mode": "standard", "max_attempts": _S3_ATTEMPTS}}
    try:
        filesystem, path = open_location(uri, **options)
        if is_local(filesystem):
            filesystem = StoredFiles()
    except InputError:
        raise
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{uri}: this storage cannot be opened: {error}") from error
    if SURROGATE.search(path):
        raise InputError(f"{uri}: this storage cannot be used: the path {path} is not UTF-8; choose another folder")
    return filesystem, path.rstrip("/")


def open_binary(uri: str, compression: str | None = None) -> IO[bytes]:
    """A file for reading, decompressed by one of fsspec's codecs."""
    filesystem, path = open_location(uri)
    return filesystem.open(path, "rb", compression=compression)


def path_inside(folder: str, path: str) -> str:
    """The part of ``path`` below ``folder``; empty if they are the same."""
    return path.removeprefix(folder.rstrip("/")).lstrip("/")


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of this filesystem are files of this machine."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def create_private_folder(uri: str) -> None:
    """Create a local folder that only its owner can open; one that exists keeps its permissions. Elsewhere: nothing.

    What lies in it needs no permissions of its own: nobody else gets that far.
    """
    filesystem, path = open_location(uri)
    if is_local(filesystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).mkdir(mode=0o700, exist_ok=True)


def move_file(filesystem: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    """Move one file; on an object store fsspec's own ``mv`` would take ``*?[`` in a path for a pattern."""
    if is_local(filesystem):
        filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        filesystem.mv(source, target)
    else:
        filesystem.cp_file(source, target)
        filesystem.rm_file(source)


def remove_folder(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove a folder and everything below it, or what is in its place, if it is there, and nothing else.

    fsspec's own ``rm`` would take ``*?[`` in a path on an object store for a pattern, and remove what matches it.
    """
    if is_local(filesystem):
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            filesystem.rm(path, recursive=True)
        return
    found = filesystem.find(path, withdirs=True, detail=True)
    for name in sorted(found, reverse=True):  # what is in a folder before the folder
        # Of folders some stores keep a mark, of which s3fs tells nothing; where there is none, nothing is to be done.
        with contextlib.suppress(FileNotFoundError) if found[name]["type"] == "directory" else contextlib.nullcontext():
            filesystem.rm_file(name)


def copy_folder(filesystem: fsspec.AbstractFileSystem, path: str, target: Path) -> None:
    """Copy a remote folder, or file, to a local path that does not exist yet."""
    for name in filesystem.find(path):
        inside = path_inside(path, name)
        local = target / inside if inside else target
        local.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(name, str(local))


def names_in(uri: str) -> set[str]:
    """The names of the files and folders in a folder; empty if it does not exist."""
    filesystem, path = open_filesystem(uri)
    try:
        found = filesystem.ls(path, detail=False, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except PermissionError as error:
        raise InputError(f"storage: {uri} cannot be read: {error.strerror or error}") from error
    return {str(name).rstrip("/").rsplit("/", 1)[-1] for name in found}
