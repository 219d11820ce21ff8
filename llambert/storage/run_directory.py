"""Where a run keeps its tables, on any filesystem fsspec opens, and how a part or a manifest gets there whole.

::

    RUN/layout.json                            which version of this layout it has, and who made it; written first
    RUN/recipe.yaml                            the resolved recipe of the latest start
    RUN/commits/model/<name>@<revision>        the commit that a revision of the hub stands for in this run
    RUN/<table>/<fingerprint>/part-00000.parquet …
    RUN/<table>/<fingerprint>/progress.json    how far the stage is; rewritten while it works
    RUN/<table>/<fingerprint>/manifest.json    written last: with it, the table is complete

A table lives under the fingerprint of everything that decided its content, so a changed recipe starts a
table of its own and never meets a stale part; going back to the old recipe finds the old table complete.
"""

import contextlib
import errno
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llambert import __version__
from llambert.errors import InputError, one_line
from llambert.printable import SURROGATE
from llambert.storage.locations import is_local, open_location
from llambert.storage.part_file import (
    Footer,
    PartCounts,
    PartRows,
    check_pages,
    clear_damage,
    parse_footer,
    read_footer,
)

LAYOUT_VERSION = 2
"""Of a run's directory. Raise it when this version cannot go on with what the last one wrote."""
LAYOUT = "layout.json"
_LAYOUT_BEFORE = '{"layout": 1, "made_by": "an earlier llambert"}'  # which wrote no such file
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
_PART_READERS = 8
_S3_ATTEMPTS = 10  # with botocore's waits, of 20 s at most and half of that on average
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Part(BaseModel):
    """One committed file of a table, with what was counted when it was made; the manifest has the sums.

    ``counts``: the stage's own figures. ``labels``: rows by their label. ``rejected``: by reason, records of the same
    unit of work that are in the table of rejects instead. ``sha256``: of a Parquet part that of its footer, which
    holds the digest of the rest; of any other file its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    num_rows: int
    num_bytes: int
    sha256: str
    counts: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    rejected: dict[str, int] = Field(default_factory=dict)

    @property
    def num_in(self) -> int:
        """Records that were read for it: its rows, and those rejected."""
        return self.num_rows + sum(self.rejected.values())


def total(parts: Iterable[Part], of: Literal["counts", "labels", "rejected"] = "counts") -> Counter[str]:
    """The sums over ``parts``, sorted by name."""
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(getattr(part, of))
    return Counter(dict(sorted(sums.items())))


class Manifest(BaseModel):
    """Completion mark, provenance and the input of the cost report of one table.

    ``num_in == num_kept + sum(num_rejected.values())``, checked when it is made. ``busy_seconds`` is the time
    models or readers worked, summed over workers; ``accelerator_seconds`` the time GPUs were held for it.
    ``amendments`` are parts whose rows take the place of the rows of ``parts`` with the same record_id
    (``responses.py``); ``num_in`` does not count them again, ``counts`` do. ``labels``: rows by their label. ``notes``
    say where the stage could not do as the recipe says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    stage: str
    fingerprint: str
    upstream: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    code_version: str = __version__
    model: str | None = None
    model_identity: str | None = None
    num_in: int
    num_kept: int
    num_rejected: dict[str, int] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    measures: dict[str, float] = Field(default_factory=dict)
    wall_seconds: float = 0.0
    busy_seconds: float = 0.0
    accelerator_seconds: float = 0.0
    completed_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    parts: list[Part] = Field(default_factory=list)
    amendments: list[Part] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _nothing_vanished(self) -> Self:
        rejected = sum(self.num_rejected.values())
        if self.num_in != self.num_kept + rejected:
            raise ValueError(f"{self.stage}: {self.num_in} in, but {self.num_kept} kept and {rejected} rejected")
        return self


def is_part(name: str) -> bool:
    """Whether a file of this name is a committed part: not hidden, as unfinished ones are."""
    return name.endswith(".parquet") and not name.rpartition("/")[2].startswith(".")


def part_of(name: str, footer: Footer, num_bytes: int) -> Part:
    """The part of this footer, whose file has ``num_bytes``."""
    return Part(name=name, num_rows=footer.num_rows, num_bytes=num_bytes, sha256=footer.sha256, **footer.counts)


@dataclass(frozen=True)
class TableDirectory:
    """One table of one run under one fingerprint. Small and picklable: it travels to every worker."""

    uri: str
    schema: pa.Schema | None = field(default=None, compare=False)
    fingerprint: str = field(default="", compare=False)

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_filesystem(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "schema": self.schema, "fingerprint": self.fingerprint}

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec filesystem that the table is on."""
        return self._opened[0]

    def path(self, name: str = "") -> str:
        """The path of ``name`` as this table's filesystem takes it."""
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    # Parts

    def commit_part(self, name: str, table: pa.Table, **counts: Unpack[PartCounts]) -> Part:
        """Write one part whole under its own name, or keep the one that is there already.

        The first writer wins: a retry, or a second driver on the same run, never replaces a committed part
        by rows that differ in a last bit. Returns what the store then holds.
        """
        if self.schema is not None:
            expected, got = self.schema.names, table.schema.names
            assert got[: len(expected)] == expected, f"{name}: columns {got}, the schema has {expected}"
        rows = PartRows()
        rows.add(table)
        return self.commit_rows(name, rows, **counts)

    def commit_rows(self, name: str, rows: PartRows, **counts: Unpack[PartCounts]) -> Part:
        """``commit_part`` for rows that came piece by piece."""
        content = rows.content(counts)
        with _clear_refusals(f"{self.uri}/{name}"):
            is_new = create_whole(self.filesystem, self.path(name), content)
        return part_of(name, parse_footer(content), len(content)) if is_new else self.committed_part(name)

    def committed_part(self, name: str) -> Part:
        """What the store holds under ``name``, by its footer alone; ``InputError`` if that is not whole."""
        size = self.filesystem.size(self.path(name))
        with clear_damage(f"{self.uri}/{name}"):
            return part_of(name, read_footer(self.filesystem, self.path(name), size), size)

    def check_part(self, name: str) -> None:
        """Read a whole part; ``InputError`` if it is not as it was written."""
        content = self.filesystem.cat_file(self.path(name))
        with clear_damage(f"{self.uri}/{name}"):
            check_pages(content)

    def committed_parts(self, names: Collection[str]) -> list[Part]:
        """``committed_part`` of those of ``names`` that are committed, sorted by name."""
        found = [name for name in self.part_names() if name in names]
        with ThreadPoolExecutor(_PART_READERS) as readers:
            return list(readers.map(self.committed_part, found))

    def part_names(self, folder: str = "") -> list[str]:
        """Names of the committed parts, sorted; from one listing, never from a list of ids.

        ``folder``: those in a folder of the table, with its name before theirs; they are not among the others.
        """
        try:
            with _clear_refusals(self.uri):
                found = self.filesystem.ls(self.path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(f"{folder}/{name}" if folder else name for name in names if is_part(name))

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One part as a table; ``InputError`` if its pages are not those that were written."""
        with self.filesystem.open(self.path(name), "rb") as stream, clear_damage(f"{self.uri}/{name}"):
            table = pq.read_table(stream, columns=columns, page_checksum_verification=True)
        return table.replace_schema_metadata(None)

    def iter_tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The table part by part, in part order, as its manifest lists them."""
        for part in self.require_manifest().parts:
            yield self.read_part(part.name, columns)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table in memory; for tables whose size a person chose (silver), not for a corpus."""
        tables = list(self.iter_tables(columns))
        if tables:
            return pa.concat_tables(tables)
        assert self.schema is not None, f"{self.uri} has no part and no schema was named"
        empty = self.schema.empty_table()
        return empty if columns is None else empty.select(columns)

    # Manifest and progress

    def read_manifest(self) -> Manifest | None:
        """The manifest, or None while the table is not complete. A damaged one is an error, not None."""
        try:
            with _clear_refusals(self.uri):
                content = self.filesystem.cat_file(self.path(MANIFEST))
        except FileNotFoundError:
            return None
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            raise InputError(
                f"{self.uri}/{MANIFEST} is damaged ({error.error_count()} faults); "
                "delete it and run the job again: committed parts are kept"
            ) from error

    def require_manifest(self) -> Manifest:
        """The manifest of a table that must be complete."""
        manifest = self.read_manifest()
        if manifest is None:
            raise InputError(f"{self.uri} is not complete: it has no {MANIFEST}; run the job again to finish it")
        return manifest

    def complete(
        self,
        stage: str,
        parts: list[Part],
        num_rejected: dict[str, int] | None = None,
        num_kept: int | None = None,
        card: Callable[[Manifest], str] | None = None,
        **fields: Any,
    ) -> Manifest:
        """Mark the table complete by a manifest with ``fields``.

        ``num_rejected``, ``num_kept`` and ``num_in`` are what ``parts`` say if not given. ``card``: what the table's
        README.md says, written before the manifest.
        """
        parts = list(parts)
        rejected = total(parts, "rejected") if num_rejected is None else num_rejected
        kept = sum(part.num_rows for part in parts) if num_kept is None else num_kept
        known = {"num_in": kept + sum(rejected.values()), "labels": total(parts, "labels")}
        fields = {**known, "fingerprint": self.fingerprint, **fields}
        manifest = Manifest(stage=stage, parts=parts, num_kept=kept, num_rejected=dict(rejected), **fields)
        if card is not None:
            write_whole(self.filesystem, self.path("README.md"), card(manifest).encode())
        return self.write_manifest(manifest)

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Mark the table complete. Temporary files of writers that were killed are swept first."""
        remove_temporaries(self.filesystem, self.path())
        write_whole(self.filesystem, self.path(MANIFEST), manifest.model_dump_json(indent=1).encode())
        return manifest

    def write_progress(self, progress: dict[str, Any]) -> None:
        """Say how far the stage is; read by ``llambert status`` and by the next start after a kill."""
        with _clear_refusals(f"{self.uri}/{PROGRESS}"):
            write_whole(self.filesystem, self.path(PROGRESS), json.dumps(progress, sort_keys=True).encode())

    def read_progress(self) -> dict[str, Any]:
        """The last progress written, empty if there is none."""
        try:
            return json.loads(self.filesystem.cat_file(self.path(PROGRESS)))
        except FileNotFoundError:
            return {}


@dataclass(frozen=True)
class RunDirectory:
    """A run's place, by URI."""

    uri: str

    def table(self, name: str, fingerprint: str, schema: pa.Schema | None = None) -> TableDirectory:
        """The directory of one table under one fingerprint."""
        return TableDirectory(f"{self.uri.rstrip('/')}/{name}/{fingerprint}", schema, fingerprint)

    def write(self, name: str, content: str) -> None:
        """Write a file of the run itself (recipe.yaml), whole; ``InputError`` if the storage takes none."""
        filesystem, path = open_filesystem(self.uri)
        with self._clear_faults("written"):
            write_whole(filesystem, f"{path}/{name}", content.encode())

    def create(self, name: str, content: str) -> str:
        """Write a file of the run itself, or keep the one that is there; what it then holds."""
        filesystem, path = open_filesystem(self.uri)
        with self._clear_faults("written"):
            create_whole(filesystem, f"{path}/{name}", content.encode())
        return self.read(name)

    def find(self, name: str) -> str | None:
        """Read a file of the run itself, None if it is not there."""
        filesystem, path = open_filesystem(self.uri)
        with self._clear_faults("read"):
            try:
                return filesystem.cat_file(f"{path}/{name}").decode()
            except FileNotFoundError:
                return None

    def read(self, name: str) -> str:
        """Read a file of the run itself; ``InputError`` if it is not there."""
        if (content := self.find(name)) is None:
            raise InputError(f"{self.uri}: no {name} there; is this a run directory?")
        return content

    def claim(self) -> None:
        """Say that this version makes the run here: the first write of every start."""
        self.check_layout()
        self.create(LAYOUT, json.dumps({"layout": LAYOUT_VERSION, "made_by": f"llambert {__version__}"}))

    def check_layout(self) -> None:
        """``InputError`` if a version whose layout was another made the run that is here."""
        text = self.find(LAYOUT) or (self.find("recipe.yaml") is not None and _LAYOUT_BEFORE)
        if text and (layout := json.loads(text))["layout"] != LAYOUT_VERSION:
            raise InputError(
                f"storage: the run in {self.uri} was made by {layout['made_by']} (layout {layout['layout']}), which "
                f"llambert {__version__} (layout {LAYOUT_VERSION}) cannot read; choose another storage"
            )

    @contextlib.contextmanager
    def _clear_faults(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each filesystem of fsspec has exceptions of its own
            raise InputError(f"storage: {self.uri} cannot be {done}: {one_line(error)}") from error


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI and the path on it, literally; ``InputError`` in one line if it cannot be opened.

    Requests to S3 are tried for about a minute (or ``AWS_MAX_ATTEMPTS``): a busy server costs time, not the run.
    """
    # A listing that was kept would hide what another process has written since, from reads too.
    options: dict[str, Any] = {"use_listings_cache": False}
    if uri.startswith("s3://") and "AWS_MAX_ATTEMPTS" not in os.environ:
        options["config_kwargs"] = {"retries": {"mode": "standard", "max_attempts": _S3_ATTEMPTS}}
    try:
        filesystem, path = open_location(uri, **options)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{uri}: this storage cannot be opened: {error}") from error
    if SURROGATE.search(path):
        raise InputError(f"{uri}: this storage cannot be used: the path {path} is not UTF-8; choose another folder")
    return filesystem, path.rstrip("/")


@contextlib.contextmanager
def _clear_refusals(uri: str) -> Iterator[None]:
    """``InputError`` for what a user must mend at the storage: no room, no rights, no bucket."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno in _NO_ROOM or _lacks_bucket(error):
            raise InputError(
                f"storage: {uri}: {one_line(error)}; what is committed is kept, mend it and run the job again"
            ) from error
        raise


def _lacks_bucket(error: OSError) -> bool:
    """s3fs raises ``FileNotFoundError`` for a missing bucket and for a missing object: S3's own code tells which."""
    response: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "NoSuchBucket"


def create_whole(filesystem: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
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


def write_whole(filesystem: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    """Write or replace ``path``, all of it or nothing."""
    if is_local(filesystem):
        os.replace(_write_temporary(path, content), path)
        _sync_folder(Path(path).parent)
    else:
        filesystem.pipe_file(path, content)


def remove_temporaries(filesystem: fsspec.AbstractFileSystem, folder: str, of: str = "") -> None:
    """Remove what killed writers left in ``folder`` of files whose names begin with ``of``."""
    if not is_local(filesystem):
        return  # object stores make objects visible whole; nothing temporary is left behind
    for leftover in Path(folder).rglob(f".{of}*.tmp"):
        leftover.unlink(missing_ok=True)


def _write_temporary(path: str, content: bytes) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:  # a full disk: half a part must not fill it further
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
