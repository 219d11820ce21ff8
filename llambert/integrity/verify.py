"""Proof that a run's tables are whole: every part there and unaltered, every record in exactly once.

Each part is read once. Ids are compared by 64-bit hashes that lie in bucket files on local disk, 32 MiB of
them in memory at a time, whatever the size of the corpus; what looks wrong by its hash is then looked up by
its id, so that two ids of one hash are no finding.
"""

import contextlib
import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llambert import schema
from llambert.errors import InputError, one_line
from llambert.hashing import hash64
from llambert.run import Run
from llambert.storage.locations import is_local
from llambert.storage.manifest import Manifest, Part, total
from llambert.storage.part_file import is_part, is_unaltered, parse_footer
from llambert.storage.reference import content_identity
from llambert.storage.run_directory import TableDirectory
from llambert.tables import TableSpec

# Amendments, which hold some records of their table once more, are looked at as a table beside it.
_AMENDMENTS = " (asked again)"
HASHES_PER_BUCKET = 4 << 20
_PART_READERS = 4
_NUM_EXAMPLES = 3
_MAX_SUSPECTS = 10_000
_Location = tuple[str, str]  # a table and a part of it


class FindingKind(StrEnum):
    """What is wrong. All decisions are made on it; a finding's ``problem`` is for people."""

    INCOMPLETE = "incomplete"  # a table without a manifest
    MANIFEST = "manifest"  # damaged, or it contradicts itself or its parts' sums
    MISSING_PART = "missing_part"
    UNEXPECTED_PART = "unexpected_part"
    ALTERED = "altered"  # by its checksum
    UNREADABLE = "unreadable"
    MISCOUNTED = "miscounted"  # a part's rows or counts are not those of the manifest
    SCHEMA = "schema"
    NULL_ID = "null_id"
    DUPLICATE = "duplicate"
    MISSING_RECORD = "missing_record"
    UNEXPECTED_RECORD = "unexpected_record"
    OTHER_CHECKPOINT = "other_checkpoint"  # not the one that made the labels


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; ``part`` is the part's name, None where it is not one part's fault.

    ``redo``: the (table, part)s that have to be made again; empty: the one named.
    """

    kind: FindingKind
    table: str
    part: str | None
    problem: str
    redo: tuple[_Location, ...] = ()

    def __str__(self) -> str:
        return f"{self.table}/{self.part}: {self.problem}" if self.part else f"{self.table}: {self.problem}"


@dataclass(frozen=True)
class _PartCheck:
    """The result for one part: the hashes of its record IDs, and what is wrong with it."""

    problems: list[tuple[FindingKind, str]]
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    arrow_schema: pa.Schema | None = None


def verify(run: Run) -> list[Finding]:
    """All faults of the tables of ``run``.

    Per table: its manifest is there and its sums are right; each of its parts is there, has the bytes, rows,
    counts and schema the manifest says, and no other part is; record IDs are unique. The parts of an
    incomplete table can be read. Across tables: labels and their rejects cover the corpus, silver labels and theirs the
    sample, and the checkpoint is the one that made the labels.
    """
    findings: list[Finding] = []
    manifests: dict[str, Manifest] = {}
    needed = run.tables.needed(run.recipe)
    checked = [table for table in run.tables if table.is_checked]
    for table in sorted(checked, key=lambda table: not table.is_required):
        name = table.name
        try:
            manifest = run.table(name).read_manifest()
        except InputError as error:
            findings.append(Finding(FindingKind.MANIFEST, name, None, str(error)))
            continue
        if manifest is not None:
            manifests[name] = manifest
        elif name in needed:
            findings.append(Finding(FindingKind.INCOMPLETE, name, None, "not complete: it has no manifest.json"))
            findings += _check_unfinished(run, table)
    with tempfile.TemporaryDirectory(prefix="llambert-verify-") as folder:
        ids = _RecordIds(run, manifests, folder)
        for name, manifest in list(manifests.items()):
            spec, directory = run.tables[name], run.table(name)
            problems = _manifest_problems(spec, directory, manifest)
            findings += [Finding(FindingKind.MANIFEST, name, None, problem) for problem in problems]
            check = _check_files if spec.is_files else _check_table
            findings += check(spec, directory, manifest, ids)
            if spec.has_amendments:
                manifests[name + _AMENDMENTS] = manifest.model_copy(update={"parts": manifest.amendments})
                findings += _check_unexpected(ids, [name + _AMENDMENTS], name)
        for name in manifests:
            findings += _check_unique(ids, [name])
        for table in run.tables:
            names = [one.name for one in run.tables.together(table.name) if one.has_ids]
            if table.covers and {*names, table.covers} <= manifests.keys():
                findings += _check_coverage(ids, names, table.covers)
    return [*findings, *_check_models(run, manifests)]


def _check_unfinished(run: Run, spec: TableSpec) -> Iterator[Finding]:
    """The parts committed so far of a table without a manifest, and of those written with it: without its sums."""
    if spec.is_files:
        return
    name = spec.name
    tables = [name, *(table.name for table in run.tables.together(name) if table.is_by_part)]
    stored = {table: _stored_parts(run.table(table)) for table in tables}
    for table, parts in stored.items():
        for part in sorted(stored[name] - parts):
            yield Finding(FindingKind.MISSING_PART, table, part, f"the part is missing, that of {name} is there")
        for part in sorted(parts):
            try:
                run.table(table).check_part(part)
            except InputError as error:
                yield Finding(FindingKind.UNREADABLE, table, part, str(error))


def _check_files(spec: TableSpec, table: TableDirectory, manifest: Manifest, _: "_RecordIds") -> Iterator[Finding]:
    """The files of a model folder, whatever they hold; tokenizers of old add some of their own, so more is no fault."""
    name = spec.name
    for part in manifest.parts:
        try:
            content = table.filesystem.cat_file(table.path(part.name))
        except FileNotFoundError:
            yield Finding(FindingKind.MISSING_PART, name, part.name, "the file is missing")
            continue
        if hashlib.sha256(content).hexdigest() != part.sha256:
            problem = "its content was altered: the checksum is not the manifest's"
            yield Finding(FindingKind.ALTERED, name, part.name, problem)


def _check_table(spec: TableSpec, table: TableDirectory, manifest: Manifest, ids: "_RecordIds") -> Iterator[Finding]:
    name = spec.name
    parts = [*manifest.parts, *manifest.amendments]
    listed = [part.name for part in parts]
    there = _stored_parts(table)
    if not spec.may_hold_more:
        for part_name in sorted(there - set(listed)):
            yield Finding(FindingKind.UNEXPECTED_PART, name, part_name, "a part that the manifest does not know")
    present = [part for part in parts if part.name in there]
    for part in parts:
        if part not in present:
            yield Finding(FindingKind.MISSING_PART, name, part.name, "the part is missing")
    first_schema: pa.Schema | None = None
    with ThreadPoolExecutor(_PART_READERS) as readers:
        results = readers.map(lambda part: _check_part(table, part, spec.has_ids), present)
        for part, checked in zip(present, results, strict=True):
            problems = list(checked.problems)
            if checked.arrow_schema is not None:
                first_schema = first_schema or checked.arrow_schema
                if not checked.arrow_schema.equals(first_schema):
                    problems.append((FindingKind.SCHEMA, f"its schema differs from that of {present[0].name}"))
            for kind, problem in problems:
                yield Finding(kind, name, part.name, problem)
            ids.add(name + _AMENDMENTS if part in manifest.amendments else name, checked.hashes)


def _stored_parts(table: TableDirectory) -> set[str]:
    """The names of a table's parts, those in folders below it too."""
    return {name for name in table.file_names() if is_part(name)}


def _manifest_problems(spec: TableSpec, table: TableDirectory, manifest: Manifest) -> Iterator[str]:
    """What contradicts itself in a manifest, whatever the parts are."""
    if manifest.fingerprint != table.fingerprint:
        yield f"the manifest is of fingerprint {manifest.fingerprint}, the folder of {table.fingerprint}"
    parts = [*manifest.parts, *manifest.amendments]
    for part_name, num in Counter(part.name for part in parts).items():
        if num > 1:
            yield f"the manifest lists {part_name} {num} times"
    if spec.is_files:
        return  # _check_models
    num_rows = sum(part.num_rows for part in manifest.parts)
    expected = manifest.num_in if spec.holds_rejected else manifest.num_kept
    if num_rows != expected:
        yield f"the manifest says {expected:,} rows, its parts together {num_rows:,}"
    totals, per_label = total(parts), total(parts, "labels")
    for key in sorted(manifest.counts.keys() & totals.keys()):
        if manifest.counts[key] != totals[key]:
            yield f"the manifest counts {manifest.counts[key]:,} {key}, its parts together {totals[key]:,}"
    for label in sorted(manifest.labels.keys() | per_label.keys()):
        counted, summed = manifest.labels.get(label, 0), per_label.get(label, 0)
        if counted != summed:
            yield f"the manifest counts {counted:,} rows labelled {label}, its parts together {summed:,}"


def _check_part(table: TableDirectory, part: Part, with_ids: bool) -> _PartCheck:
    content = table.filesystem.cat_file(table.path(part.name))
    problems = []
    if not is_unaltered(content, part.sha256):
        problem = f"its content was altered: {len(content):,} bytes, of which the checksum is not the manifest's"
        problems.append((FindingKind.ALTERED, problem))
    try:
        counts = parse_footer(content).counts
        parquet = pq.ParquetFile(io.BytesIO(content))
        names = parquet.schema_arrow.names
        columns = [schema.RECORD_ID] if schema.RECORD_ID in names else []
        rows = parquet.read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a damaged name or count is no UTF-8 or JSON
        return _PartCheck([*problems, (FindingKind.UNREADABLE, f"it is no whole Parquet file: {one_line(error)}")])
    if rows.num_rows != part.num_rows:
        problem = f"it has {rows.num_rows:,} rows, the manifest says {part.num_rows:,}"
        problems.append((FindingKind.MISCOUNTED, problem))
    if counts != part.model_dump(include=set(counts)):
        problems.append((FindingKind.MISCOUNTED, "its own counts differ from those in the manifest"))
    arrow_schema = parquet.schema_arrow.remove_metadata()
    problems += [(FindingKind.SCHEMA, problem) for problem in _schema_problems(arrow_schema, table.schema)]
    if not (with_ids and columns):
        return _PartCheck(problems, arrow_schema=arrow_schema)
    record_ids = rows[schema.RECORD_ID]
    if record_ids.null_count:
        problems.append((FindingKind.NULL_ID, f"{record_ids.null_count} of its rows have no record_id"))
        record_ids = record_ids.drop_null()
    return _PartCheck(problems, hash64(record_ids), arrow_schema)


def _schema_problems(found: pa.Schema, declared: pa.Schema | None) -> Iterator[str]:
    for position, column in enumerate(declared or []):
        if position >= len(found) or found.names[position] != column.name:
            yield f"column {position} should be {column.name!r}; it has {', '.join(found.names)}"
            return
        if found.field(position).type != column.type:
            yield f"column {column.name!r} is {found.field(position).type}, the schema says {column.type}"


class _RecordIds:
    """Hashes of each table's record IDs, in files by their last bits: one bucket of all tables fits in memory."""

    def __init__(self, run: Run, manifests: dict[str, Manifest], folder: str) -> None:
        self.run, self.manifests, self.folder = run, manifests, Path(folder)
        num_rows = sum(part.num_rows for manifest in manifests.values() for part in manifest.parts)
        self.num_buckets = 1 + num_rows // HASHES_PER_BUCKET

    def add(self, table: str, hashes: np.ndarray) -> None:
        """More hashes of ``table``."""
        bucket_of = hashes % np.uint64(self.num_buckets)
        for bucket in np.unique(bucket_of):
            with (self.folder / f"{table}-{bucket}").open("ab") as file:
                hashes[bucket_of == bucket].tofile(file)

    def buckets(self, *tables: str) -> Iterator[np.ndarray]:
        """The hashes of ``tables`` together, bucket by bucket; the same bucket of every table at once."""
        for bucket in range(self.num_buckets):
            files = [self.folder / f"{table}-{bucket}" for table in tables]
            hashes = [np.fromfile(file, dtype=np.uint64) for file in files if file.exists()]
            yield np.concatenate([np.zeros(0, np.uint64), *hashes])

    def only_in(self, tables: list[str], others: list[str]) -> np.ndarray:
        """The hashes of ``tables`` that ``others`` do not have."""
        pairs = zip(self.buckets(*tables), self.buckets(*others), strict=True)
        return np.concatenate([np.setdiff1d(hashes, other) for hashes, other in pairs])

    def locations(self, tables: list[str], hashes: np.ndarray) -> dict[str, list[_Location]]:
        """ID -> where it is in ``tables``, for the IDs of ``hashes``; reads the tables again if there are any."""
        found: dict[str, list[_Location]] = {}
        wanted = np.sort(hashes)[:_MAX_SUSPECTS]
        for name in tables if len(wanted) else ():
            table = self.run.table(name.removesuffix(_AMENDMENTS))
            stored = _stored_parts(table)
            for part in (part.name for part in self.manifests[name].parts if part.name in stored):
                with contextlib.suppress(InputError):  # not a whole Parquet file: a finding already
                    record_ids = table.read_part(part, [schema.RECORD_ID])[schema.RECORD_ID].drop_null()
                    for position in np.flatnonzero(np.isin(hash64(record_ids), wanted)):
                        location = (name.removesuffix(_AMENDMENTS), part)
                        found.setdefault(record_ids[int(position)].as_py(), []).append(location)
        return found


def _check_unique(ids: _RecordIds, names: list[str]) -> Iterator[Finding]:
    """IDs that are not unique: in the table, or, of several tables, in more than one of them."""
    suspects: list[np.ndarray] = []
    for hashes in ids.buckets(*names):
        hashes.sort()
        suspects.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
    found = ids.locations(names, np.concatenate(suspects))
    repeated = {
        record_id: sorted(set(places))
        for record_id, places in found.items()
        if len(places) > 1 and (len(names) == 1 or len({table for table, _ in places}) > 1)
    }
    for (first, *others), record_ids in _by_place(repeated):
        also = f" (also in {', '.join(map('/'.join, others))})" if others else ""
        problem = f"{_describe_ids(record_ids)} more than once{also}"
        yield Finding(FindingKind.DUPLICATE, *first, problem, redo=(first, *others))


def _check_coverage(ids: _RecordIds, names: list[str], whole: str) -> Iterator[Finding]:
    """Whether the tables ``names`` hold each id of ``whole`` once between them, and no other."""
    if len(names) > 1:
        yield from _check_unique(ids, names)
    missing = ids.locations([whole], ids.only_in([whole], names))
    for ((table, part), *_), record_ids in _by_place(missing):
        # The covering part has the name of the one it covers, or its table is made again whole, as that may be too.
        redo = ((names[0], part), *([(whole, part)] if ids.run.tables[whole].is_made_whole else []))
        problem = f"{_describe_ids(record_ids)} in neither {' nor '.join(names)}"
        yield Finding(FindingKind.MISSING_RECORD, table, part, problem, redo)
    yield from _check_unexpected(ids, names, whole)


def _check_unexpected(ids: _RecordIds, names: list[str], whole: str) -> Iterator[Finding]:
    """Ids of the tables ``names`` that ``whole`` does not have."""
    foreign = ids.locations(names, ids.only_in(names, [whole]))
    for ((table, part), *_), record_ids in _by_place(foreign):
        problem = f"{_describe_ids(record_ids)} that {whole} does not have"
        yield Finding(FindingKind.UNEXPECTED_RECORD, table, part, problem)


def _by_place(places: dict[str, list[_Location]]) -> list[tuple[tuple[_Location, ...], list[str]]]:
    """The IDs that are in the same places, together."""
    by_place: dict[tuple[_Location, ...], list[str]] = {}
    for record_id, where in places.items():
        by_place.setdefault(tuple(where), []).append(record_id)
    return sorted(by_place.items())


def _describe_ids(record_ids: list[str]) -> str:
    """For example ``2 records (r1, r2)``."""
    examples = ", ".join(sorted(record_ids)[:_NUM_EXAMPLES])
    more = ", …" if len(record_ids) > _NUM_EXAMPLES else ""
    return f"{len(record_ids):,} record{'s' if len(record_ids) > 1 else ''} ({examples}{more})"


def _check_models(run: Run, manifests: dict[str, Manifest]) -> Iterator[Finding]:
    """Whether model files still are what made the tables (a store's own marks change when it is copied)."""
    for table in run.tables:
        made, files = manifests.get(table.name), table.model_files
        if made is None or files not in manifests or not is_local(run.table(files).filesystem):
            continue
        if made.model_identity != content_identity(run.table(files).uri):
            redo = tuple((table.name, part.name) for part in made.parts)
            problem = f"its files are not those that the {table.name} were made with"
            yield Finding(FindingKind.OTHER_CHECKPOINT, files, None, problem, redo)
