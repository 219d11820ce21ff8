"""Where a model or a corpus lives: one string that says it.

========================  =====================================================================
``meta-llama/Llama-2-…``   a name on the Hugging Face hub (models; ``hf://datasets/…`` for corpora), or name@commit
``./folder``, ``/folder``  a local file or folder
``s3://bucket/key``        anything fsspec can open
``package:name/file``      a file inside an installed Python package, found without importing it
========================  =====================================================================
"""

import contextlib
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.utils import glob_translate

from llambert.errors import InputError, one_line
from llambert.printable import visible
from llambert.storage.file_hashes import add_content, cache_folder, cached_identity, content_hashes
from llambert.storage.hub import copy_to_storage, one_process, patiently, snapshot
from llambert.storage.locations import copy_folder, is_local, open_location, path_inside

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[0-9a-f]{40})?$")
MAIN = "main"  # what a hub name without a revision stands for
_COMMIT = re.compile("[0-9a-f]{40}")
# What a remote listing may say of a file's content, the surest first: checksums, then times of change.
_CONTENT_MARKERS = (
    "ETag", "etag", "md5Hash", "blob_id", "CRC",
    "LastModified", "last_modified", "mtime", "modified", "modify", "modificationTime", "created",
)  # fmt: skip


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
    path = reference if os.path.lexists(reference) else os.path.expanduser(reference)
    if os.path.exists(path):
        return Resolved(os.path.abspath(path), "local")  # a link keeps its name: its ending says what it is
    if not reference.startswith((".", "/", "~")) and _HUB_NAME.match(reference):
        return Resolved(reference, "hub")
    raise InputError(f"{reference}: no such file or folder")


def _inside_package(reference: str) -> Path:
    """The file or folder in an installed package, which is looked up, never imported; nothing outside of it."""
    name, _, inside = reference.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except ValueError:  # of a module that runs without a specification, such as __main__
        spec = None
    # A built-in finder lists the folders of a package; a namespace belongs to whoever adds a folder to it.
    if spec is None or not spec.submodule_search_locations or spec.origin is None:
        raise InputError(f"{reference}: the Python package {name!r} is not installed here")
    steps = inside.split("/")
    if os.path.isabs(inside) or ".." in steps or "\\" in inside or "\0" in inside:
        raise InputError(f"{reference}: leaves the package {name!r}; name a file or folder inside it")
    for folder in spec.submodule_search_locations:
        path = Path(folder) / inside
        if not os.path.exists(path):
            continue
        root = os.path.realpath(folder)
        for found in [path, *path.rglob("*")] if path.is_dir() and inside else [path]:
            if os.path.commonpath([os.path.realpath(found), root]) != root:
                where = path_inside(folder, str(found))
                raise InputError(f"{reference}: {where} is a link that leaves the package {name!r}")
        return path
    raise InputError(f"{reference}: the package {name!r} has no {inside!r}")


def is_hub_name(reference: str) -> bool:
    """Whether a reference names a repository of the Hugging Face hub; ``InputError`` as ``resolve`` has it."""
    return not _has_wildcard(reference) and resolve(reference).kind == "hub"


def is_commit(text: str) -> bool:
    """Whether a text is a full commit of the hub."""
    return bool(_COMMIT.fullmatch(text))


def find_commit(name: str, revision: str | None = None, repo_type: str = "model") -> str:
    """The commit that a revision of a repository of the hub is at; null: that of ``main``, or of ``name@commit``.

    A full commit is itself. Otherwise the hub says so, and where it cannot be asked, what it said last on this machine;
    ``InputError`` where it never did.
    """
    name, _, commit = name.partition("@")
    if _COMMIT.fullmatch(commit or revision or ""):
        return commit or revision or ""
    from huggingface_hub import HfApi

    try:
        return patiently(name, lambda: HfApi().resolve_revision(name, revision=revision, repo_type=repo_type)).resolved
    except Exception as error:  # the transport and the hub have many of their own
        raise InputError(
            f"{name}: which commit its revision {revision or MAIN} is at cannot be found out: "
            f"{one_line(error.__cause__ or error)}; set the revision to a full commit, start once with access to the "
            "hub, or name a local folder"
        ) from error


def pin_commit(reference: str, revision: str | None = None, repo_type: str = "model") -> str:
    """A hub name as ``name@commit``, so that every process loads the same; any other reference as it is."""
    if not is_hub_name(reference):
        return reference
    return f"{reference.partition('@')[0]}@{find_commit(reference, revision, repo_type)}"


def content_identity(reference: str, revision: str | None = None, hidden: bool = True, repo_type: str = "model") -> str:
    """A short hash of what a reference stands for now, so that replaced content is never met by old results.

    Local files count by name and content; remote ones by name, size and what their store says of the content,
    their content itself where it says nothing; a hub name by its commit (``find_commit``). ``hidden``: whether hidden
    files count; a corpus does not read them.
    """
    if is_hub_name(reference):
        return hashlib.sha256(pin_commit(reference, revision, repo_type).encode()).hexdigest()[:16]
    found = find_files(reference, hidden)
    filesystem, files = found.filesystem, found.files
    try:
        if is_local(filesystem):
            return cached_identity(list(files), sum(info["size"] for info in files.values()), lambda: _identity(files))
        return _identity(files, filesystem)
    except OSError as error:
        raise InputError(f"{visible(str(error.filename or reference))}: cannot be read: {one_line(error)}") from error


def _identity(files: dict[str, dict[str, Any]], remote: fsspec.AbstractFileSystem | None = None) -> str:
    digest = hashlib.sha256()
    folder = os.path.commonpath([name.rpartition("/")[0] for name in files])
    for name, info in files.items():
        # surrogatepass: a name need not be UTF-8
        digest.update(f"{name.removeprefix(folder)}\0{info['size']}\0".encode(errors="surrogatepass"))
        if remote is None:
            add_content(Path(name), digest)
        elif mark := next((info[mark] for mark in _CONTENT_MARKERS if info.get(mark)), None):
            digest.update(f"{mark}\0".encode())
        else:
            with remote.open(name, "rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()[:16]


def file_identities(found: "FoundFiles") -> dict[str, str]:
    """Each file's path inside its corpus -> a short hash of what it holds now; by the rules of ``content_identity``."""
    try:
        if is_local(found.filesystem):
            hashes = content_hashes(found.root, {name: info["size"] for name, info in found.files.items()})
        else:
            hashes = {name: _identity({name: info}, found.filesystem) for name, info in found.files.items()}
    except OSError as error:
        raise InputError(f"{visible(str(error.filename or found.root))}: cannot be read: {one_line(error)}") from error
    return {found.inside(name): hashed for name, hashed in hashes.items()}


class FoundFiles(NamedTuple):
    """A filesystem, the files that a reference names there, by sorted path, and how many hidden ones it leaves out.

    ``root``: the file or folder that the reference names, or the folder that its pattern is searched for in.
    """

    filesystem: fsspec.AbstractFileSystem
    files: dict[str, dict[str, Any]]
    num_hidden: int
    root: str

    @property
    def folder(self) -> str:
        """The root, or the folder of a root that is a file."""
        return self.root.rpartition("/")[0] if self.root in self.files else self.root.rstrip("/")

    def inside(self, name: str) -> str:
        """A file's path below ``folder``: the same wherever the corpus lies and whatever other files it has."""
        return path_inside(self.folder, name)


def find_files(reference: str, hidden: bool = False) -> FoundFiles:
    """The files of a file, a folder (everything below it) or a glob; ``InputError`` if it cannot be read or has none.

    A path that exists is that file or folder, whatever characters its name holds; the same goes for the
    folders that a glob begins with. Hidden files, and those in hidden folders, are left out below what the
    reference names, unless ``hidden``: names that begin with ``.`` or ``_``, but for a partition's folder
    (``_year=2024``). A glob finds those that it asks for (``**/_drafts/*.txt``).
    """
    try:
        filesystem, root, pattern = _split_glob(reference)
        listed = _list_files(filesystem, root, pattern)
        relative = {name: path_inside(root, name) for name in listed}
        if pattern:
            matches = re.compile(glob_translate(pattern)).match
            listed = {name: info for name, info in listed.items() if matches(relative[name])}
        visible_names = [name for name in listed if hidden or not is_hidden(relative[name], pattern)]
        if is_local(filesystem):
            # shared: a folder may hold millions of files
            sizes = {name: _local_size(name) for name in sorted(visible_names)}
            infos = {size: {"size": size} for size in sizes.values()}
            found = {name: infos[size] for name, size in sizes.items()}
        else:
            found = {
                name: {key: listed[name][key] for key in ("size", *_CONTENT_MARKERS) if key in listed[name]}
                for name in sorted(visible_names)
            }
    except InputError as error:
        raise InputError(f"{reference}: {error}") from error
    except Exception as error:  # each filesystem of fsspec has exceptions of its own
        raise InputError(f"{reference}: cannot be read: {one_line(error)}") from error
    num_hidden = len(listed) - len(visible_names)
    if not found:
        raise InputError(f"{reference}: no file is there{' but hidden ones' if num_hidden else ''}")
    return FoundFiles(filesystem, found, num_hidden, root)


def _has_wildcard(text: str) -> bool:
    return any(character in text for character in "*?[")


def _split_glob(reference: str) -> tuple[fsspec.AbstractFileSystem, str, str]:
    """A reference as a filesystem, the path that exists there, and the pattern below it, empty if there is none."""
    if not _has_wildcard(reference):
        return *open_location(resolve(reference).location), ""
    filesystem, path = open_location(reference)
    exists = os.path.lexists if is_local(filesystem) else filesystem.exists
    steps = path.split("/")
    place = next((i for i, step in enumerate(steps) if _has_wildcard(step)), len(steps))
    while place < len(steps) and (not _has_wildcard(steps[place]) or exists("/".join(steps[: place + 1]))):
        place += 1
    root = "/".join(steps[:place])
    return filesystem, root or filesystem.root_marker, "/".join(steps[place:])


def _list_files(filesystem: fsspec.AbstractFileSystem, root: str, pattern: str) -> dict[str, dict[str, Any]]:
    """The files at and below ``root``, as deep as ``pattern`` can match."""
    if is_local(filesystem):
        return {name: {} for name in _walk_files(root, pattern)}
    depth = None if not pattern or "**" in pattern else pattern.count("/") + 1
    found = filesystem.find(root, maxdepth=depth, detail=True)
    infos = {name: info or filesystem.info(name) for name, info in found.items()}  # of a single file some say nothing
    return {name: info for name, info in infos.items() if info["type"] == "file"}


def _walk_files(root: str, pattern: str) -> Iterator[str]:
    """The files of a folder and its folders, or the file itself.

    With a pattern, of the folders that it can match alone; they may be links. Without one, links come as they
    are. A visible folder that may not be read is an ``OSError``, unlike in fsspec's own search, and no file costs a
    kilobyte.
    """
    if not os.path.isdir(root):
        yield from [root] if os.path.lexists(root) else []
        return
    steps = pattern.split("/")
    prefixes = [re.compile(glob_translate("/".join(steps[: depth + 1]))) for depth in range(len(steps))]

    def can_match(folder: str) -> bool:
        depth = folder.count("/")
        return "**" in steps[: depth + 1] or (depth < len(steps) - 1 and bool(prefixes[depth].match(folder)))

    def refuse(error: OSError) -> None:
        if not is_hidden(path_inside(root, os.fsdecode(error.filename)) + "/", pattern):
            raise error

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=bool(pattern)):
        yield from (os.path.join(folder, name) for name in names)
        paths = {name: os.path.join(folder, name) for name in folders}
        if pattern:
            folders[:] = [name for name, path in paths.items() if can_match(path_inside(root, path))]
            _refuse_loops(paths[name] for name in folders)
        yield from (path for name, path in paths.items() if os.path.islink(path) and not (pattern and name in folders))


def _refuse_loops(folders: Iterable[str]) -> None:
    for folder in folders:
        if os.path.islink(folder) and f"{os.path.realpath(folder.rpartition('/')[0])}/".startswith(
            f"{os.path.realpath(folder)}/"
        ):
            raise InputError(f"{folder} is a link to a folder that it is in; delete it or name what you mean")


def is_hidden(inside: str, pattern: str = "") -> bool:
    """Whether a file of this path below what the user named is hidden, or in a hidden folder.

    Not if ``pattern``, the wildcards that it was found by, asks for hidden names itself.
    """
    *folders, name = [step for step in inside.split("/") if step not in (".", "..")] or [""]
    hidden = [step for step in folders if step.startswith(".") or (step.startswith("_") and "=" not in step)]
    hidden += [name] if name.startswith((".", "_")) else []
    asked_for = [step for step in pattern.split("/") if step.startswith((".", "_"))]
    return any(not any(fnmatchcase(step, asked) for asked in asked_for) for step in hidden)


def _local_size(name: str) -> int:
    if not os.path.isfile(name):
        leads_to = "a folder, which is not followed" if os.path.isdir(name) else "nothing that is a file"
        what = f"a link to {leads_to}" if os.path.islink(name) else "neither a file nor a folder"
        raise InputError(f"{name} is {what}; delete it or name what you mean")
    return os.path.getsize(name)


def local_copy(reference: str, revision: str | None = None, pickled: bool = False) -> str:
    """The local path of a model, downloading remote folders once.

    Remote folders are copied below ``LLAMBERT_CACHE`` (default ``~/.cache/llambert``) under their content
    identity by one process of the machine, whole before they get their name: a copy cut short is never taken for a
    model. A hub name is downloaded into the hub's own cache, at ``revision`` or as ``name@commit`` (``hub.snapshot``).
    """
    resolved = resolve(reference)
    if resolved.kind == "hub":
        return snapshot(reference.partition("@")[0], find_commit(reference, revision), pickled)
    if resolved.kind != "remote":
        return resolved.location
    target = cache_folder() / content_identity(reference)
    if target.exists():
        return str(target)
    with one_process(f"copy-{target}"):
        if not target.exists():
            filesystem, path = open_location(resolved.location)
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            partial.parent.mkdir(parents=True, exist_ok=True)
            copy_folder(filesystem, path, partial)
            try:
                os.rename(partial, target)
            except OSError:
                assert target.exists(), f"{partial} could not be renamed to {target}"
    return str(target)


def provide_model(
    reference: str, revision: str | None, storage: str, *, spans_machines: bool, pickled: bool = False
) -> str:
    """What every worker of a run opens in place of ``reference``, fetched once: called before there are workers.

    On one machine that is the name at its commit, by now in the hub's cache. Where workers are on several, it is a copy
    below ``storage``, so that none of them asks the hub. What is not on the hub stays as it is.
    """
    if not is_hub_name(reference):
        return reference
    name, commit = reference.partition("@")[0], find_commit(reference, revision)
    if spans_machines:
        return copy_to_storage(name, commit, pickled, storage)
    snapshot(name, commit, pickled)
    return f"{name}@{commit}"


def path_without_wildcards(location: str) -> str:
    """The path of a local file or folder without ``*?[``, for libraries that take these for a pattern.

    It is the path itself, or a link to it below ``LLAMBERT_CACHE``.
    """
    if not _has_wildcard(location) or not os.path.exists(location):
        return location
    link = cache_folder() / "links" / hashlib.sha256(os.fsencode(location)).hexdigest()[:16]
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # it leads there already
        link.symlink_to(location)
    return str(link)
