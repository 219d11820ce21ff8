"""Where a run keeps its tables, on any filesystem fsspec opens, and how a part or a manifest gets there whole.

::

    RUN/layout.json                            which version of this layout it has, and who made it; written first
    RUN/recipe.yaml                            the resolved recipe of the latest start
    RUN/commits/model/<name>@<revision>        the commit that a revision of the hub stands for in this run
    RUN/models/<name>@<commit>/                a hub's model for workers on several machines; its mark: the same, .json
    RUN/generations/<recipe>/000001 …          the contents of the corpus' source that the run has read, in their order
    RUN/refresh/<recipe>/<generation>-auto     which checkpoint labels that generation of the corpus, and why
    RUN/<table>/<fingerprint>/part-00000.parquet …
    RUN/<table>/<fingerprint>/progress.json    how far the stage is; rewritten while it works
    RUN/<table>/<fingerprint>/manifest.json    written last: with it, the table is complete

A table lives under the fingerprint of the recipe, corpus and models that it is made of, so a changed recipe starts a
table of its own and never meets a stale part; going back to the old recipe finds the old table complete.

The corpus and its labels grow: their fingerprints cover the recipe alone, a part's name (``part-<file>-<content>-…``)
says what it was read from, and the manifest says of which generation of the source (``generations.py``) it lists the
parts. A file that has not changed finds its parts again; those that the newest manifest does not list are removed.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import IO, Any, Unpack

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from llambert.errors import Damaged, InputError, one_line
from llambert.storage.atomic import create_atomically, remove_temporaries, write_atomically, written_atomically
from llambert.storage.generations import require_latest
from llambert.storage.layout import LAYOUT, check_layout, written_layout
from llambert.storage.locations import create_private_folder, is_local, open_filesystem, path_inside
from llambert.storage.manifest import MANIFEST, Manifest, Part, total
from llambert.storage.part_file import (
    PartCounts,
    PartWriter,
    check_pages,
    damage_as_input_error,
    is_part,
    parse_footer,
    read_footer,
    wrong_kind,
)
from llambert.storage.refusals import refusal_as_input_error
from llambert.untrusted import parse_json

CARD = "README.md"
PROGRESS = "progress.json"
_NUM_READERS = 8
REPAIR = "`llambert repair` makes it again"
DELETE = "delete it and start the same command again"


class _Progress(BaseModel):
    """The content of ``progress.json``: numbers that are counts or seconds, and when they were written."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | str | None]
    done: int = Field(0, ge=0)
    total: int | None = None
    unit: str = "records"
    num_failures: int = 0
    failure: str | None = None
    stopped_by: str | None = None
    fingerprint: str | None = None
    generation: str | None = None
    wall_seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    busy_seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    accelerator_seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    updated_at: AwareDatetime | None = None


@dataclass(frozen=True)
class TableDirectory:
    """One table of one run under one fingerprint. Small and picklable: it travels to every worker.

    ``remedy``: what an error says to do about a damaged file of it. ``is_companion``: another table is completed after
    it by the same step, which leaves out both where that one is complete. ``generation``: of a table that grows, the
    content of the source that it is to be of; ``generations``: the folder that says which one is the latest.
    """

    uri: str
    schema: pa.Schema | None = field(default=None, compare=False)
    fingerprint: str = field(default="", compare=False)
    remedy: str = field(default=DELETE, compare=False)
    is_companion: bool = field(default=False, compare=False)
    generation: str = field(default="", compare=False)
    generations: str = field(default="", compare=False)

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_filesystem(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec filesystem that the table is on."""
        return self._opened[0]

    def path(self, name: str = "") -> str:
        """The path of ``name`` as this table's filesystem takes it."""
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    def read_file(self, name: str) -> bytes:
        """The content of a file; ``Damaged`` if it is missing or no file."""
        with self.reading(name):
            return self.filesystem.cat_file(self.path(name))

    def reading(self, name: str) -> contextlib.AbstractContextManager[None]:
        """``Damaged`` for what is wrong with a file that must be whole."""
        return damage_as_input_error(f"{self.uri}/{name}", self.remedy)

    def write_file(self, name: str, content: bytes) -> Part:
        """Write or replace a file that is not a part; for the ``files`` of the manifest."""
        with refusal_as_input_error(f"{self.uri}/{name}", self.remedy):
            write_atomically(self.filesystem, self.path(name), content)
        return Part.of_file(name, content)

    @contextlib.contextmanager
    def writing_file(self, name: str) -> Iterator[IO[bytes]]:
        """``write_file`` for a content that is written to a stream; an exception in the block leaves what there was."""
        with (
            refusal_as_input_error(f"{self.uri}/{name}", self.remedy),
            written_atomically(self.filesystem, self.path(name)) as stream,
        ):
            yield stream

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
        self.require_latest()
        with refusal_as_input_error(f"{self.uri}/{name}", self.remedy):
            is_new = create_atomically(self.filesystem, self.path(name), content)
        return Part.from_footer(name, parse_footer(content), len(content)) if is_new else self.committed_part(name)

    def committed_part(self, name: str) -> Part:
        """What the store holds under ``name``, by its footer alone; ``InputError`` if that is not whole."""
        with self.reading(name):
            size = self.filesystem.size(self.path(name))
            return Part.from_footer(name, read_footer(self.filesystem, self.path(name), size), size)

    def find_part(self, name: str) -> Part | None:
        """``committed_part``, None if it is not there; asks about that one part, whatever else the table holds."""
        return self.committed_part(name) if self.filesystem.exists(self.path(name)) else None

    def check_part(self, name: str) -> None:
        """Read a whole part; ``InputError`` if it is not as it was written."""
        content = self.read_file(name)
        with self.reading(name):
            check_pages(content)

    def committed_parts(self, names: Collection[str], stored: Collection[str] | None = None) -> list[Part]:
        """``committed_part`` of those of ``names`` that are committed, sorted by name.

        What the manifest of an earlier generation lists is not read again. ``stored``: what is committed, if known.
        """
        last = self.last_manifest() if self.generation else None
        known = {part.name: part for part in last.parts} if last and last.generation != self.generation else {}
        found = sorted(set(self.part_names() if stored is None else stored) & set(names))
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            return list(readers.map(lambda name: known.get(name) or self.committed_part(name), found))

    def part_names(self, folder: str = "") -> list[str]:
        """Names of the committed parts, sorted; from one listing, never from a list of ids.

        ``folder``: those in a folder of the table, with its name before theirs; they are not among the others.
        """
        try:
            with refusal_as_input_error(self.uri, self.remedy):
                found = self.filesystem.ls(self.path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(f"{folder}/{name}" if folder else name for name in names if is_part(name))

    def file_names(self) -> set[str]:
        """The paths of all files below the table's folder, hidden ones, those in folders and links included.

        A folder in which there is nothing is there as well: it may be in the place of a file.
        """
        top = self.path()
        if not is_local(self.filesystem):
            return {path_inside(top, str(path)) for path in self.filesystem.find(top)}
        found: set[str] = set()
        for folder, folders, names in os.walk(top):
            links = [name for name in folders if os.path.islink(f"{folder}/{name}")]
            found.update(path_inside(top, f"{folder}/{name}") for name in (*names, *links))
            if not folders and not names and folder != top:
                found.add(path_inside(top, folder))
        return found

    def read_part(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One part as a table; ``InputError`` if its pages are not those that were written."""
        with self.reading(name), self.filesystem.open(self.path(name), "rb") as stream:
            table = pq.read_table(stream, columns=columns, page_checksum_verification=True)
            for column in self.schema or ():
                if column.name in table.column_names and (found := table.schema.field(column.name).type) != column.type:
                    raise ValueError(f"column {column.name!r} is {found}, the schema says {column.type}")
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
        """The manifest, or None while the table is not complete. A damaged one is an error, not None.

        A table that grows is not complete while its manifest is of another generation (``last_manifest``).
        """
        manifest = self.last_manifest()
        return manifest if manifest is None or manifest.generation == self.generation or not self.generation else None

    def last_manifest(self) -> Manifest | None:
        """The manifest of any generation."""
        try:
            with refusal_as_input_error(f"{self.uri}/{MANIFEST}", self.remedy):
                content = self.filesystem.cat_file(self.path(MANIFEST))
        except FileNotFoundError:
            return None
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            why = f"{error.error_count()} faults"
            raise Damaged(f"{self.uri}/{MANIFEST}", why, f"{self.remedy}; committed parts are kept") from error

    def require_manifest(self) -> Manifest:
        """The manifest of a table that must be complete."""
        manifest = self.read_manifest()
        if manifest is None:
            remedy = self.remedy if self.is_companion else "`llambert run` completes it"
            raise InputError(f"{self.uri} is not complete: it has no {MANIFEST}; {remedy}")
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
        README.md says, written before the manifest; of the same parts it must say the same, whichever driver writes it.
        """
        rejected = total(parts, "rejected") if num_rejected is None else num_rejected
        kept = sum(part.num_rows for part in parts) if num_kept is None else num_kept
        known = {"num_in": kept + sum(rejected.values()), "labels": total(parts, "labels")}
        fields = {**known, "fingerprint": self.fingerprint, "generation": self.generation, **fields}
        self.require_latest()
        manifest = Manifest(stage=stage, parts=parts, num_kept=kept, num_rejected=dict(rejected), **fields)
        if card is not None:
            written = self.write_file(CARD, card(manifest).encode())
            manifest = manifest.model_copy(update={"files": [*manifest.files, written]})
        return self.write_manifest(manifest)

    def require_latest(self) -> None:
        """``Superseded`` if this table grows and another start works on a newer generation of the corpus."""
        if self.generation:
            require_latest(self.generations, self.generation, self.uri)

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Mark the table complete. Temporary files of writers that were killed are swept first."""
        with refusal_as_input_error(f"{self.uri}/{MANIFEST}", self.remedy):
            remove_temporaries(self.filesystem, self.path())
            sealed = manifest.sealed()
            write_atomically(self.filesystem, self.path(MANIFEST), sealed.model_dump_json(indent=1).encode())
        return sealed

    def write_progress(self, progress: dict[str, Any]) -> None:
        """Say how far the stage is; read by ``llambert status`` and by the next start after a kill."""
        with refusal_as_input_error(f"{self.uri}/{PROGRESS}", self.remedy):
            write_atomically(self.filesystem, self.path(PROGRESS), json.dumps(progress, sort_keys=True).encode())

    def read_progress(self) -> dict[str, Any]:
        """The last progress written; empty if there is none, or if it is damaged: nothing depends on it."""
        try:
            content = self.filesystem.cat_file(self.path(PROGRESS))
            _Progress.model_validate_json(content)
            progress: dict[str, Any] = parse_json(content)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not wrong_kind(error):
                raise
            return {}
        return progress


@dataclass(frozen=True)
class RunDirectory:
    """A run's place, by URI."""

    uri: str

    def table(
        self,
        name: str,
        fingerprint: str,
        schema: pa.Schema | None = None,
        remedy: str = REPAIR,
        is_companion: bool = False,
        **growing: str,
    ) -> TableDirectory:
        """The directory of one table under one fingerprint; ``growing``: the generation of one that grows."""
        uri = f"{self.uri.rstrip('/')}/{name}/{fingerprint}"
        return TableDirectory(uri, schema, fingerprint, remedy, is_companion, **growing)

    def write(self, name: str, content: str) -> None:
        """Write a file of the run itself (recipe.yaml); ``InputError`` if the storage refuses it."""
        with self._opened(name, "written") as (filesystem, path):
            write_atomically(filesystem, path, content.encode())

    def create(self, name: str, content: str) -> str:
        """Write a file of the run itself unless it exists; its content afterwards."""
        with self._opened(name, "written") as (filesystem, path):
            create_atomically(filesystem, path, content.encode())
        return self.read(name)

    def find(self, name: str, remedy: str = "restore it, or choose another storage") -> str | None:
        """The content of a file of the run itself, None if it does not exist."""
        with self._opened(name, "read", remedy) as (filesystem, path), contextlib.suppress(FileNotFoundError):
            return filesystem.cat_file(path).decode()
        return None

    def read(self, name: str) -> str:
        """The content of a file of the run itself; ``InputError`` if it does not exist."""
        if (content := self.find(name)) is None:
            raise InputError(f"{self.uri}: no {name} there; is this a run directory?")
        return content

    def claim(self) -> None:
        """Record the layout and the version of llambert: the first write of every start.

        A local run directory that it creates is its owner's alone: it holds the corpus. To share one, create it first.
        """
        self.check_layout()
        with self._opened("", "written"):
            create_private_folder(self.uri)
        self.create(LAYOUT, written_layout())

    def check_layout(self) -> None:
        """``InputError`` if the run that is here has another layout, or ``layout.json`` does not say which."""
        text = self.find(LAYOUT)
        check_layout(self.uri, text, has_recipe=text is None and self.find("recipe.yaml") is not None)

    @contextlib.contextmanager
    def _opened(self, name: str, action: str, remedy: str = "") -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        filesystem, path = open_filesystem(self.uri)
        try:
            yield filesystem, f"{path}/{name}"
        except Exception as error:  # each filesystem of fsspec has exceptions of its own
            why = wrong_kind(error) or (isinstance(error, UnicodeDecodeError) and "it is not UTF-8")
            if remedy and why and not isinstance(error, NotADirectoryError):  # then the run itself is no folder
                raise Damaged(f"{self.uri}/{name}", why, remedy) from error
            raise InputError(f"storage: {self.uri} cannot be {action}: {name}: {one_line(error)}") from error
