"""Whether every record is in its tables exactly once.

IDs are compared by 64-bit hashes that lie in bucket files on local disk, 32 MiB of them in memory at a time, whatever
the size of the corpus; what looks wrong by its hash is then looked up by its ID, so that two IDs of one hash are no
finding.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llambert import schema
from llambert.errors import InputError
from llambert.hashing import hash64
from llambert.integrity.finding import Finding, FindingKind, Location
from llambert.run import Run
from llambert.storage.manifest import Manifest
from llambert.storage.versioned_parts import is_of

HASHES_PER_BUCKET = 4 << 20
_NUM_EXAMPLES = 3
_MAX_SUSPECTS = 10_000


class RecordIds:
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

    def locations(self, tables: list[str], hashes: np.ndarray) -> dict[str, list[Location]]:
        """ID -> where it is in ``tables``, for the IDs of ``hashes``; reads the tables again if there are any."""
        found: dict[str, list[Location]] = {}
        wanted = np.sort(hashes)[:_MAX_SUSPECTS]
        for name in tables if len(wanted) else ():
            table = self.run.table(name)
            stored = table.file_names()
            for part in (part.name for part in self.manifests[name].parts if part.name in stored):
                with contextlib.suppress(InputError):  # not a whole Parquet file: a finding already
                    record_ids = table.read_part(part, [schema.RECORD_ID])[schema.RECORD_ID].drop_null()
                    for position in np.flatnonzero(np.isin(hash64(record_ids), wanted)):
                        found.setdefault(record_ids[int(position)].as_py(), []).append((name, part))
        return found


def check_unique(ids: RecordIds, names: list[str]) -> Iterator[Finding]:
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
        problem = f"{describe_ids(record_ids)} more than once{also}"
        yield Finding(FindingKind.DUPLICATE, *first, problem, redo=(first, *others))


def check_coverage(ids: RecordIds, names: list[str], whole: str) -> Iterator[Finding]:
    """Whether the tables ``names`` hold each id of ``whole`` once between them, and no other."""
    if len(names) > 1:
        yield from check_unique(ids, names)
    missing = ids.locations([whole], ids.only_in([whole], names))
    for ((table, part), *_), record_ids in _by_place(missing):
        # The covering part has the name of the one it covers, perhaps with a version, or its table is made again whole,
        # as that may be too.
        listed = [(names[0], each.name) for each in ids.manifests[names[0]].parts if is_of(each.name, part)]
        redo = (*(listed or [(names[0], part)]), *([(whole, part)] if ids.run.tables[whole].is_made_whole else []))
        problem = f"{describe_ids(record_ids)} in neither {' nor '.join(names)}"
        yield Finding(FindingKind.MISSING_RECORD, table, part, problem, redo)
    yield from check_unexpected(ids, names, whole)


def check_unexpected(ids: RecordIds, names: list[str], whole: str) -> Iterator[Finding]:
    """Ids of the tables ``names`` that ``whole`` does not have."""
    foreign = ids.locations(names, ids.only_in(names, [whole]))
    for ((table, part), *_), record_ids in _by_place(foreign):
        problem = f"{describe_ids(record_ids)} that {whole} does not have"
        yield Finding(FindingKind.UNEXPECTED_RECORD, table, part, problem)


def _by_place(places: dict[str, list[Location]]) -> list[tuple[tuple[Location, ...], list[str]]]:
    """The IDs that are in the same places, together."""
    by_place: dict[tuple[Location, ...], list[str]] = {}
    for record_id, where in places.items():
        by_place.setdefault(tuple(where), []).append(record_id)
    return sorted(by_place.items())


def describe_ids(record_ids: list[str]) -> str:
    """For example ``2 records (r1, r2)``."""
    examples = ", ".join(sorted(record_ids)[:_NUM_EXAMPLES])
    more = ", …" if len(record_ids) > _NUM_EXAMPLES else ""
    return f"{len(record_ids):,} record{'s' if len(record_ids) > 1 else ''} ({examples}{more})"
