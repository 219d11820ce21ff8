"""Whether an answer store can be read, and holds the answers that a run's responses refer to."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from llambert import schema
from llambert.annotation.answer_store import is_beside_parts, names_keys
from llambert.errors import InputError
from llambert.integrity.finding import Finding, FindingKind, Location
from llambert.integrity.part_checks import check_part, fault
from llambert.integrity.record_ids import describe_ids
from llambert.run import Run
from llambert.storage.manifest import Manifest, Part
from llambert.storage.part_file import is_part
from llambert.storage.run_directory import TableDirectory
from llambert.tables import TableSpec

_PART_READERS = 4


def check_store(run: Run, spec: TableSpec, manifests: Mapping[str, Manifest]) -> Iterator[Finding]:
    """All faults of the store ``spec`` as ``run`` sees it, ``manifests`` being those of its complete tables.

    Parts that these list are there and are those; every other part can be read as well, since a lookup reads the keys
    of each; a part's name is that of its keys; what a row refers to is in the part that it names. An index is not
    looked at: a damaged one counts for nothing.
    """
    store, there = run.table(spec.name), run.table(spec.name).file_names()
    referring = {name: found for name, found in manifests.items() if run.tables[name].refers_to == spec.name}
    listed = {part.name: part for manifest in referring.values() for part in manifest.answers}
    stored = sorted(name for name in there if is_part(name) and "/" not in name)
    for name in sorted(there.difference(stored)):
        if not is_beside_parts(store, name):
            yield Finding(FindingKind.UNEXPECTED_PART, spec.name, name, "a file that is none of an answer store's")
    for name in sorted(listed.keys() - set(stored)):
        redo = ((spec.name, name), *_made_of(name, referring))
        yield Finding(FindingKind.MISSING_PART, spec.name, name, "the part is missing", redo)
    keys: dict[str, pa.ChunkedArray] = {}
    categories = run.task.category_names
    with ThreadPoolExecutor(_PART_READERS) as readers:
        checked = readers.map(lambda name: _check_part(store, name, listed.get(name), categories), stored)
        for name, (problems, found) in zip(stored, checked, strict=True):
            for kind, problem in problems:
                redo = _made_of(name, referring)
                if kind is not FindingKind.OTHER_COMPANION:
                    redo = ((spec.name, name), *redo)
                yield Finding(kind, spec.name, name, problem, redo)
            if found is not None:
                keys[name] = found
    damaged = (listed.keys() | set(stored)) - keys.keys()
    for name, manifest in referring.items():
        for part in manifest.parts:
            yield from _check_references(run, spec, (name, part.name), keys, damaged)


def _made_of(name: str, referring: Mapping[str, Manifest]) -> tuple[Location, ...]:
    """The tables that refer to a part of the store."""
    return tuple(
        (table, part.name)
        for table, manifest in referring.items()
        if name in (listed.name for listed in manifest.answers)
        for part in manifest.parts
    )


Checked = tuple[list[tuple[FindingKind, str]], pa.ChunkedArray | None]
"""What is wrong with a part of the store, and its keys if it can be used."""


def _check_part(store: TableDirectory, name: str, listed: Part | None, categories: Sequence[str]) -> Checked:
    """A part that is there; ``listed``: as a manifest has it."""
    problems, keys = _check_by_itself(store, name, categories)
    if listed is None:
        return problems, keys
    known = check_part(store, listed, False, categories).problems
    if known and keys is not None:
        # Another run that shares the store lost the part, and has asked again: what is there now is as good.
        return [(FindingKind.OTHER_COMPANION, "it is whole, and not the one that the responses refer to")], keys
    return known or problems, keys


def _check_by_itself(store: TableDirectory, name: str, categories: Sequence[str]) -> Checked:
    """A part that no manifest of the run vouches for."""
    try:
        if problems := check_part(store, store.committed_part(name), False, categories).problems:
            return problems, None
        keys = store.read_part(name)[schema.KEY]
    except InputError as error:
        return [(FindingKind.UNREADABLE, fault(error))], None
    if not names_keys(name, keys):
        return [(FindingKind.UNEXPECTED_PART, "its name is not that of the answers in it")], None
    return [], keys


def _check_references(
    run: Run, spec: TableSpec, location: Location, keys: Mapping[str, pa.ChunkedArray], damaged: set[str]
) -> Iterator[Finding]:
    """Whether the store has the answers that a part of the responses refers to; those in ``damaged`` apart."""
    table, part = location
    columns = [schema.RECORD_ID, schema.KEY, schema.ANSWERED_IN]
    try:
        rows = run.table(table).read_part(part, columns)
    except InputError:  # a finding already
        return
    for name in sorted(pc.unique(rows[schema.ANSWERED_IN]).drop_null().to_pylist()):
        if name in damaged:
            continue
        lacking = rows.filter(pc.equal(rows[schema.ANSWERED_IN], name))
        if name in keys:
            is_there = pc.is_in(lacking[schema.KEY], value_set=keys[name].combine_chunks())
            lacking = lacking.filter(pc.invert(is_there))
        if lacking.num_rows:
            records = describe_ids(lacking[schema.RECORD_ID].to_pylist())
            problem = f"{records} without the answer that should be in {spec.name}/{name}"
            yield Finding(FindingKind.MISSING_RECORD, table, part, problem)
