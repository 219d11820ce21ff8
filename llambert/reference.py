"""Where a model or a corpus lives: one string that says it.

========================  =====================================================================
``meta-llama/Llama-2-…``   a name on the Hugging Face hub (models; ``hf://datasets/…`` for corpora)
``./folder``, ``/folder``  a local file or folder
``s3://bucket/key``        anything fsspec can open
``package:name/file``      a file inside an installed Python package, found without importing it
========================  =====================================================================
"""

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llambert.errors import InputError, one_line

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
# Files up to this size are hashed whole; of larger ones the size and the first and last mebibyte count, so
# that a 140 GB checkpoint does not delay a run's start by minutes.
_HASH_WHOLE_BELOW_BYTES = 1 << 30
_MEBIBYTE = 1 << 20
# What a remote listing says of a file that is kept: its size, and what changes with its content.
_MARKS = ("size", "ETag", "etag", "LastModified", "created")


@dataclass(frozen=True)
class Resolved:
    """A reference that was looked up.

    ``location`` is what a library is given to open: a local path, a URI or a hub name.
    ``kind`` is ``local``, ``remote`` (an fsspec URI) or ``hub``.
    """

    location: str
    kind: str


def resolve(reference: str) -> Resolved:
    """Find what a reference names; ``InputError`` if it is not there.

    A bare ``name/name`` is a local path if one exists and a hub name otherwise, as everywhere in the
    Hugging Face libraries.
    """
    if reference.startswith("package:"):
        return Resolved(str(_inside_package(reference)), "local")
    if "://" in reference:
        return Resolved(reference, "remote")
    path = Path(reference).expanduser()
    if path.exists():
        return Resolved(os.path.abspath(path), "local")  # a link keeps its name: its ending says what it is
    if not reference.startswith((".", "/", "~")) and _HUB_NAME.match(reference):
        return Resolved(reference, "hub")
    raise InputError(f"{reference}: no such file or folder")


def _inside_package(reference: str) -> Path:
    name, _, inside = reference.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{reference}: the Python package {name!r} is not installed here")
    for folder in spec.submodule_search_locations:
        path = Path(folder) / inside
        if path.exists():
            return path
    raise InputError(f"{reference}: the package {name!r} has no {inside!r}")


def content_identity(reference: str, revision: str | None = None) -> str:
    """A short hash of what a reference stands for now, so that replaced content is never met by old results.

    Local files count by name and content; remote ones by name, size and the store's own ETag or time of
    change; a hub name by its revision, or, if the recipe pins none, by the revision in the local hub cache.
    """
    if not is_glob(reference) and (resolved := resolve(reference)).kind == "hub":
        version = revision or _cached_revision(resolved.location)
        return hashlib.sha256(f"{resolved.location}@{version}".encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    filesystem, files = find_files(reference)
    folder = os.path.commonpath([name.rpartition("/")[0] for name in files])
    is_local = isinstance(filesystem, LocalFileSystem)
    for name, info in files.items():
        digest.update(f"{name.removeprefix(folder)}\0{info['size']}\0".encode())
        if is_local:
            _hash_file(Path(name), digest)
        else:
            mark = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("created") or ""
            digest.update(f"{mark}\0".encode())
    return digest.hexdigest()[:16]


def is_glob(reference: str) -> bool:
    """Whether a reference names files by a pattern."""
    return any(character in reference for character in "*?[")


def find_files(reference: str) -> tuple[fsspec.AbstractFileSystem, dict[str, dict[str, Any]]]:
    """The filesystem of a file, a folder (everything below it) or a glob, and its files by sorted path.

    ``InputError`` if it cannot be read or no file is there.
    """
    location = reference if is_glob(reference) else resolve(reference).location
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
        if isinstance(filesystem, LocalFileSystem):
            names = filesystem.glob(path) if is_glob(reference) else _below(path)
            sizes = {name: _local_size(name) for name in sorted(names) if not _is_folder(name)}
            infos = {size: {"size": size} for size in sizes.values()}  # shared: a folder may hold millions of files
            found = {name: infos[size] for name, size in sizes.items()}
        else:
            search = filesystem.glob if is_glob(reference) else filesystem.find
            listed = sorted(search(path, detail=True).items())
            found = {
                name: {key: info[key] for key in _MARKS if key in info}
                for name, info in listed
                if info["type"] == "file"
            }
    except InputError as error:
        raise InputError(f"{reference}: {error}") from error
    except Exception as error:  # each filesystem of fsspec has exceptions of its own
        raise InputError(f"{reference}: cannot be read: {one_line(error)}") from error
    if not found:
        raise InputError(f"{reference}: no file is there")
    return filesystem, found


def _below(path: str) -> Iterator[str]:
    """The files of a folder and its folders, or the file itself; links as they are.

    Unlike fsspec's own search, a folder that may not be read is an ``OSError``, and no file costs a kilobyte.
    """

    def refuse(error: OSError) -> None:
        raise error

    if not os.path.isdir(path):
        yield from [path] if os.path.lexists(path) else []
        return
    for folder, folders, names in os.walk(path, onerror=refuse):
        yield from (os.path.join(folder, name) for name in names)
        yield from (name for name in (os.path.join(folder, inner) for inner in folders) if os.path.islink(name))


def _is_folder(name: str) -> bool:
    return os.path.isdir(name) and not os.path.islink(name)


def _local_size(name: str) -> int:
    if not os.path.isfile(name):
        leads_to = "a folder, which is not followed" if os.path.isdir(name) else "nothing that is a file"
        raise InputError(f"{name} is a link to {leads_to}; take it away or name what you mean")
    return os.path.getsize(name)


def _hash_file(file: Path, digest: "hashlib._Hash") -> None:
    try:
        _add_content(file, digest)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {one_line(error)}") from error


def _add_content(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _HASH_WHOLE_BELOW_BYTES:
            while chunk := stream.read(_MEBIBYTE):
                digest.update(chunk)
        else:
            digest.update(stream.read(_MEBIBYTE))
            stream.seek(-_MEBIBYTE, os.SEEK_END)
            digest.update(stream.read(_MEBIBYTE))


def _cached_revision(hub_name: str) -> str:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return "main"
    for repository in repositories:
        if repository.repo_id == hub_name:
            for revision in repository.revisions:
                if "main" in revision.refs:
                    return revision.commit_hash
    return "main"


def local_copy(reference: str) -> str:
    """A local path or hub name that transformers can load, downloading remote folders once.

    Remote folders are copied below ``LLAMBERT_CACHE`` (default ``~/.cache/llambert``) under their content
    identity, whole before they get their name: a copy cut short is never taken for a model.
    """
    resolved = resolve(reference)
    if resolved.kind != "remote":
        return resolved.location
    cache = Path(os.environ.get("LLAMBERT_CACHE", "~/.cache/llambert")).expanduser()
    target = cache / content_identity(reference)
    if not target.exists():
        filesystem, path = fsspec.core.url_to_fs(resolved.location)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get(path, str(partial), recursive=True)
        try:
            os.rename(partial, target)
        except OSError:
            assert target.exists(), f"{partial} could not be renamed to {target}"
    return str(target)
