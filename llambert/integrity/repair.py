"""Damaged files are set aside, so that the stages make them again.

Nothing is deleted: damaged files go to ``RUN/set_aside/<time>/<table>/<fingerprint>/``. How much is made again depends
on the table: a part of ``corpus``, ``responses`` or ``labels`` by itself; ``sample`` and ``silver``, which take
seconds, whole; a checkpoint whole, since weights cannot be repaired.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from llambert.annotation.responses import amended_part
from llambert.execution import Executor
from llambert.execution.ray_executor import RAY
from llambert.integrity.verify import Finding, FindingKind, verify
from llambert.pipeline import pipeline
from llambert.run import Run
from llambert.storage.locations import move_file, open_filesystem
from llambert.storage.manifest import MANIFEST
from llambert.storage.run_directory import TableDirectory
from llambert.tables import TableSpec


def repair(run: Run, executor: Executor = RAY) -> Iterator[Finding]:
    """Set aside what is damaged and make it again, until verify finds nothing; yields the findings of each round.

    ``RuntimeError`` naming what is left if a round repaired nothing.
    """
    before: list[Finding] = []
    while findings := verify(run):
        if findings == before:
            raise RuntimeError(f"repair: made again, and still {len(findings)} findings, the first: {findings[0]}")
        yield from findings
        set_aside(run, findings)
        pipeline(run, executor)
        before = findings


def set_aside(run: Run, findings: Iterable[Finding]) -> list[str]:
    """Move what ``findings`` name out of the tables of ``run``; the paths moved, below the run's directory.

    The pipeline then makes it again. Verify once more afterwards: damage that other damage hid, and labels of a
    checkpoint whose retraining gave other weights, are found only then.
    """
    findings = list(findings)
    damaged: dict[tuple[TableSpec, ...], set[str]] = {}
    others = [finding for finding in findings if finding.kind is not FindingKind.OTHER_CHECKPOINT]
    remade = {finding.table for finding in others if run.tables[finding.table].is_files}
    for finding in findings:
        if finding.table in remade and finding.kind is FindingKind.OTHER_CHECKPOINT:
            continue  # retraining may give the same weights, and does on a CPU: verify again afterwards
        for table, part in finding.redo or ((finding.table, finding.part),):
            damaged.setdefault(run.tables.together(table), set()).update([part] if part else [])
    if damaged:
        for spec in run.tables:
            if spec.is_made_whole and not spec.is_checked:  # the report, which describes the damaged tables
                damaged[run.tables.together(spec.name)] = set()
    folder = f"{run.recipe.storage.rstrip('/')}/set_aside/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    moved = []
    for group, parts in damaged.items():
        for spec in group:
            moved += _move(run.table(spec.name), folder, parts, whole=group[0].is_made_whole)
    return moved


def _move(table: TableDirectory, folder: str, parts: set[str], whole: bool) -> list[str]:
    """Move the manifest first, without which a table is not complete, then ``parts``, or every file."""
    is_damaged = (lambda name: True) if whole else (lambda name: name in parts or amended_part(name) in parts)
    names = [name for name in table.file_names() if name == MANIFEST or is_damaged(name)]
    names.sort(key=lambda name: (name != MANIFEST, name))
    place = "/".join(table.uri.rsplit("/", 2)[1:])
    filesystem, target = open_filesystem(f"{folder}/{place}")
    for name in names:
        move_file(filesystem, table.path(name), f"{target}/{name}")
    return [f"{place}/{name}" for name in names]
