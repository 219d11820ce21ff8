"""Local paths and URIs as the filesystem and the path on it: literally, never as patterns."""

import contextlib
import os
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_LOCAL_SCHEME = "file://"


def open_location(uri: str, **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI, made with ``options`` unless it is local, and the path on it.

    What has no ``://`` is a local path, whatever characters it holds: fsspec would take ``a::b`` for two URIs
    and drop ``file:`` from the start of a name.
    """
    if uri.startswith(_LOCAL_SCHEME) or "://" not in uri:
        path = uri.removeprefix(_LOCAL_SCHEME)
        if not os.path.lexists(path):
            path = os.path.expanduser(path)
        return LocalFileSystem(), os.path.abspath(path)
    filesystem, path = fsspec.core.url_to_fs(uri, **options)
    return filesystem, path


def open_binary(uri: str, compression: str | None = None) -> IO[bytes]:
    """A file for reading, decompressed by one of fsspec's codecs."""
    filesystem, path = open_location(uri)
    return filesystem.open(path, "rb", compression=compression)


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of this filesystem are files of this machine."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def move_file(filesystem: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    """Move one file; on an object store fsspec's own ``mv`` would take ``*?[`` in a path for a pattern."""
    if is_local(filesystem):
        filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        filesystem.mv(source, target)
    else:
        filesystem.cp_file(source, target)
        filesystem.rm_file(source)


def remove_folder(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove a folder and everything below it, if it is there, and nothing else.

    fsspec's own ``rm`` would take ``*?[`` in a path on an object store for a pattern, and remove what matches it.
    """
    if is_local(filesystem):
        if os.path.isdir(path):
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
        inside = name.removeprefix(path.rstrip("/")).lstrip("/")
        local = target / inside if inside else target
        local.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(name, str(local))
