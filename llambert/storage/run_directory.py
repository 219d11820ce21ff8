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
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Unpack

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from llambert import __version__
from llambert.errors import InputError, one_line
from llambert.storage.atomic import create_atomically, remove_temporaries, write_atomically
from llambert.storage.locations import open_filesystem, path_inside
from llambert.storage.manifest import MANIFEST, Manifest, Part, total
from llambert.storage.part_file import (
    PartCounts,
    PartWriter,
    check_pages,
    damage_as_input_error,
    is_part,
    parse_footer,
    read_footer,
)

LAYOUT_VERSION = 2
"""Of a run's directory. Raise it when this version cannot resume what the last one wrote."""
LAYOUT = "layout.json"
PROGRESS = "progress.json"
_NUM_READERS = 8
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class _Layout(BaseModel):
    """The content of ``layout.json``."""

    layout: int
    made_by: str


_LAYOUT_WITHOUT_FILE = _Layout(layout=1, made_by="an earlier llambert")


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
        rows = PartWriter()
        rows.add(table)
        return self.commit_rows(name, rows, **counts)

    def commit_rows(self, name: str, rows: PartWriter, **counts: Unpack[PartCounts]) -> Part:
        """``commit_part`` for rows that came piece by piece."""
        content = rows.content(counts)
        with _refusal_as_input_error(f"{self.uri}/{name}"):
            is_new = create_atomically(self.filesystem, self.path(name), content)
        return Part.from_footer(name, parse_footer(content), len(content)) if is_new else self.committed_part(name)

    def committed_part(self, name: str) -> Part:
        """What the store holds under ``name``, by its footer alone; ``InputError`` if that is not whole."""
        size = self.filesystem.size(self.path(name))
        with damage_as_input_error(f"{self.uri}/{name}"):
            return Part.from_footer(name, read_footer(self.filesystem, self.path(name), size), size)

    def check_part(self, name: str) -> None:
        """Read a whole part; ``InputError`` if it is not as it was written."""
        content = self.filesystem.cat_file(self.path(name))
        with damage_as_input_error(f"{self.uri}/{name}"):
            check_pages(content)

    def committed_parts(self, names: Collection[str]) -> list[Part]:
        """``committed_part`` of those of ``names`` that are committed, sorted by name."""
        found = [name for name in self.part_names() if name in names]
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            return list(readers.map(self.committed_part, found))

    def part_names(self, folder: str = "") -> list[str]:
        """Names of the committed parts, sorted; from one listing, never from a list of ids.

        ``folder``: those in a folder of the table, with its name before theirs; they are not among the others.
        """
        try:
            with _refusal_as_input_error(self.uri):
                found = self.filesystem.ls(self.path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(f"{folder}/{name}" if folder else name for name in names if is_part(name))

    def file_names(self) -> set[str]:
        """The paths of all files below the table's folder, hidden ones and those in folders included."""
        return {path_inside(self.path(), str(path)) for path in self.filesystem.find(self.path())}

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One part as a table; ``InputError`` if its pages are not those that were written."""
        with self.filesystem.open(self.path(name), "rb") as stream, damage_as_input_error(f"{self.uri}/{name}"):
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
            with _refusal_as_input_error(self.uri):
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
        rejected = total(parts, "rejected") if num_rejected is None else num_rejected
        kept = sum(part.num_rows for part in parts) if num_kept is None else num_kept
        known = {"num_in": kept + sum(rejected.values()), "labels": total(parts, "labels")}
        fields = {**known, "fingerprint": self.fingerprint, **fields}
        manifest = Manifest(stage=stage, parts=parts, num_kept=kept, num_rejected=dict(rejected), **fields)
        if card is not None:
            write_atomically(self.filesystem, self.path("README.md"), card(manifest).encode())
        return self.write_manifest(manifest)

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Mark the table complete. Temporary files of writers that were killed are swept first."""
        remove_temporaries(self.filesystem, self.path())
        write_atomically(self.filesystem, self.path(MANIFEST), manifest.model_dump_json(indent=1).encode())
        return manifest

    def write_progress(self, progress: dict[str, Any]) -> None:
        """Say how far the stage is; read by ``llambert status`` and by the next start after a kill."""
        with _refusal_as_input_error(f"{self.uri}/{PROGRESS}"):
            write_atomically(self.filesystem, self.path(PROGRESS), json.dumps(progress, sort_keys=True).encode())

    def read_progress(self) -> dict[str, Any]:
        """The last progress written, empty if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads(self.filesystem.cat_file(self.path(PROGRESS)))
        return {}


@dataclass(frozen=True)
class RunDirectory:
    """A run's place, by URI."""

    uri: str

    def table(self, name: str, fingerprint: str, schema: pa.Schema | None = None) -> TableDirectory:
        """The directory of one table under one fingerprint."""
        return TableDirectory(f"{self.uri.rstrip('/')}/{name}/{fingerprint}", schema, fingerprint)

    def write(self, name: str, content: str) -> None:
        """Write a file of the run itself (recipe.yaml); ``InputError`` if the storage refuses it."""
        with self._opened(name, "written") as (filesystem, path):
            write_atomically(filesystem, path, content.encode())

    def create(self, name: str, content: str) -> str:
        """Write a file of the run itself unless it exists; its content afterwards."""
        with self._opened(name, "written") as (filesystem, path):
            create_atomically(filesystem, path, content.encode())
        return self.read(name)

    def find(self, name: str) -> str | None:
        """The content of a file of the run itself, None if it does not exist."""
        with self._opened(name, "read") as (filesystem, path), contextlib.suppress(FileNotFoundError):
            return filesystem.cat_file(path).decode()
        return None

    def read(self, name: str) -> str:
        """The content of a file of the run itself; ``InputError`` if it does not exist."""
        if (content := self.find(name)) is None:
            raise InputError(f"{self.uri}: no {name} there; is this a run directory?")
        return content

    def claim(self) -> None:
        """Record the layout and the version of llambert: the first write of every start."""
        self.check_layout()
        self.create(LAYOUT, _Layout(layout=LAYOUT_VERSION, made_by=f"llambert {__version__}").model_dump_json())

    def check_layout(self) -> None:
        """``InputError`` if the run that is here has another layout, or ``layout.json`` does not say which."""
        text = self.find(LAYOUT)
        try:
            layout = _Layout.model_validate_json(text) if text is not None else _LAYOUT_WITHOUT_FILE
        except ValidationError as error:
            raise InputError(
                f"storage: {self.uri}/{LAYOUT} is damaged: it does not say which layout the run has; "
                "restore the file or choose another storage"
            ) from error
        if layout.layout != LAYOUT_VERSION and (text is not None or self.find("recipe.yaml") is not None):
            raise InputError(
                f"storage: the run in {self.uri} was made by {layout.made_by} (layout {layout.layout}), which "
                f"llambert {__version__} (layout {LAYOUT_VERSION}) cannot read; choose another storage"
            )

    @contextlib.contextmanager
    def _opened(self, name: str, action: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        filesystem, path = open_filesystem(self.uri)
        try:
            yield filesystem, f"{path}/{name}"
        except Exception as error:  # each filesystem of fsspec has exceptions of its own
            raise InputError(f"storage: {self.uri} cannot be {action}: {name}: {one_line(error)}") from error


@contextlib.contextmanager
def _refusal_as_input_error(uri: str) -> Iterator[None]:
    """``InputError`` for what a user must fix in the storage: no space, no permission, no bucket."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno in _NO_SPACE or _lacks_bucket(error):
            raise InputError(
                f"storage: {uri}: {one_line(error)}; committed parts are kept; fix the storage and run the job again"
            ) from error
        raise


def _lacks_bucket(error: OSError) -> bool:
    """s3fs raises ``FileNotFoundError`` for a missing bucket and for a missing object: S3's own code tells which."""
    response: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "NoSuchBucket"
