"""Damaged files are set aside, so that the stages make them again.

Nothing is deleted: damaged files go to ``RUN/set_aside/<time>/<table>/<fingerprint>/``, those of an answer store to a
folder ``set_aside`` beside it. How much is made again depends on the table: a part of ``corpus``, ``labels`` or the
answers by itself; ``sample``, ``responses`` and ``silver``, which take seconds, whole; a checkpoint whole, since
weights cannot be repaired; nothing for a file that does not belong there. What the manifest of a corpus that has
grown, or of its labels, said is new since last time is said again by the one that is made in its place.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from llambert.errors import Damaged, InputError
from llambert.execution import Executor
from llambert.execution.ray_executor import RAY
from llambert.integrity.finding import Finding, FindingKind
from llambert.integrity.part_checks import fault
from llambert.integrity.source_changes import source_note
from llambert.integrity.verify import verify
from llambert.pipeline import pipeline
from llambert.run import Run
from llambert.storage.locations import is_local, move_file, open_filesystem
from llambert.storage.manifest import MANIFEST
from llambert.storage.part_file import is_part
from llambert.storage.run_directory import PROGRESS, TableDirectory
from llambert.storage.set_aside import SET_ASIDE
from llambert.tables import TableSpec


def repair(run: Run, executor: Executor = RAY) -> Iterator[Finding]:
    """Set aside what is damaged and make it again, until verify finds nothing; yields the findings of each round.

    ``InputError`` naming what is left if a round repaired nothing. Where the source of the corpus has changed since it
    was read, damage is set aside, and ``llambert run`` makes it again with what is new.
    """
    if note := source_note(run):
        findings = verify(run)
        yield from findings
        if findings:
            set_aside(run.last_read(), findings)
            raise InputError(
                f"repair: damage was set aside into {_set_aside_folder(run)}; {note}: start `llambert run`, which "
                "makes it again too"
            )
        return
    seen: list[list[Finding]] = []
    while findings := verify(run := run.at(run.generation)):
        if findings in seen:
            raise InputError(
                f"repair: of what was set aside and made again {len(findings)} findings are left, the first: "
                f"{findings[0]}; what was set aside is in {_set_aside_folder(run)}; check the storage, and that its "
                "files are not altered by another program"
            )
        yield from findings
        set_aside(run, findings)
        try:
            pipeline(run, executor)
        except InputError as error:
            if _set_unchecked_aside(run, error):
                continue
            if _is_known(verify(run), findings):  # what the damage hid is repaired by the next round
                raise InputError(f"repair: what was set aside cannot be made again: {fault(error)}") from error
        seen.append(findings)


def _set_unchecked_aside(run: Run, error: InputError) -> list[str]:
    """Move a table that verify does not read, the states of a training, if ``error`` is of it; the paths moved."""
    tables = [run.table(spec.name) for spec in run.tables if not spec.is_checked and not spec.is_store]
    folder = f"{_set_aside_folder(run)}/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    damaged = [table for table in tables if isinstance(error, Damaged) and error.uri.startswith(f"{table.uri}/")]
    return [moved for table in damaged for moved in _move(table, folder, [""])]


def _is_known(findings: list[Finding], before: list[Finding]) -> bool:
    """Whether ``findings`` name no damage that those before did not, tables apart that are not made again yet."""
    damage = {finding for finding in findings if finding.kind is not FindingKind.INCOMPLETE}
    return damage <= set(before)


def set_aside(run: Run, findings: Iterable[Finding]) -> list[str]:
    """Move what ``findings`` name out of the tables of ``run``; the paths moved, as ``<table>/<fingerprint>/<file>``.

    The pipeline then makes it again. Verify once more afterwards: damage that other damage hid, and labels of a
    checkpoint whose retraining gave other weights, are found only then.
    """
    findings = list(findings)
    damaged: dict[tuple[TableSpec, ...], set[str]] = {}
    moved = []
    time = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"

    def where(spec: TableSpec) -> str:
        """Other runs may share a store, and it may be anywhere: what is damaged in it stays beside it."""
        folder = _beside_store(run.table(spec.name)) if spec.is_store else _set_aside_folder(run)
        return f"{folder}/{time}"

    unexpected = [finding for finding in findings if finding.kind is FindingKind.UNEXPECTED_PART]
    of_files = [finding for finding in findings if run.tables[finding.table].is_files and finding not in unexpected]
    remade = {finding.table for finding in of_files if finding.kind is not FindingKind.OTHER_CHECKPOINT}
    for finding in findings:
        if finding in unexpected or (finding.table in remade and finding.kind is FindingKind.OTHER_CHECKPOINT):
            continue  # retraining may give the same weights, and does on a CPU: verify again afterwards
        for table, part in finding.redo or ((finding.table, finding.part),):
            damaged.setdefault(run.tables.together(table), set()).update([part] if part else [])
    if damaged:
        damaged |= {run.tables.together(spec.name): set() for spec in run.tables if spec.is_description}
    for group, parts in damaged.items():
        for spec in group:
            directory = run.table(spec.name)
            moved += _move(directory, where(spec), _to_move(directory, spec, parts, whole=group[0].is_made_whole))
    for finding in unexpected:
        moved += _move(run.table(finding.table), where(run.tables[finding.table]), [finding.part or ""])
    return moved


def _set_aside_folder(run: Run) -> str:
    return f"{run.recipe.storage.rstrip('/')}/{SET_ASIDE}"


def _beside_store(table: TableDirectory) -> str:
    store, _, _ = table.uri.rpartition("/")
    above, _, _ = table.path().rpartition("/")
    if is_local(table.filesystem) and os.path.lexists(above) and not os.path.isdir(above):  # in the place of the store
        store, _, _ = store.rpartition("/")
    return f"{store}/{SET_ASIDE}"


def _to_move(table: TableDirectory, spec: TableSpec, parts: set[str], whole: bool) -> list[str]:
    """The manifest first, without which a table is not complete, then ``parts`` and other files; "": all there is.

    Of a store, which has no manifest and nothing that is made of its parts, these alone.
    """
    if whole or (is_local(table.filesystem) and not os.path.isdir(table.path())):
        return [""]
    if spec.is_store:
        return sorted(parts)
    names = table.file_names()
    beside = {name for name in names if not is_part(name) and not name.startswith(".") and name != PROGRESS}
    return sorted(beside | parts, key=lambda name: (name != MANIFEST, name))


def _move(table: TableDirectory, folder: str, names: list[str]) -> list[str]:
    """Move what has these names in the table's folder, the whole folder under the empty one; the paths moved."""
    place = "/".join(table.uri.rsplit("/", 2)[1:])
    filesystem, target = open_filesystem(folder)
    if is_local(filesystem):
        found = {f"{place}/{name}".rstrip("/"): table.path(name) for name in names}
        above = table.path().rpartition("/")[0]
        if "" in names and os.path.lexists(above) and not os.path.isdir(above):  # in the place of the folder above
            found[place.partition("/")[0]] = above
    else:
        there = sorted(table.file_names(), key=lambda name: (name != MANIFEST, name))
        found = {f"{place}/{name}": table.path(name) for name in there if name in names or "" in names}
    moved = []
    for name, path in found.items():
        if not is_local(filesystem) or os.path.lexists(path):  # not with the folder that it was in
            move_file(filesystem, path, f"{target}/{name}")
            moved.append(name)
    return moved
