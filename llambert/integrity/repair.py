"""What verify found damaged is set aside, so that the stages, which make what is missing, make it again.

Nothing is deleted: damaged files go to ``RUN/set_aside/<time>/<table>/<fingerprint>/``. How much is made again depends
on the table: a part of ``corpus``, ``responses`` or ``labels`` by itself; ``sample`` and ``silver``, which take
seconds, whole; a checkpoint whole, since weights cannot be mended.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from llambert.annotation.responses import amended_part
from llambert.execution import Executor
from llambert.execution.ray_executor import RAY
from llambert.integrity.verify import Finding, verify
from llambert.pipeline import pipeline
from llambert.run import Run
from llambert.storage.locations import move_file
from llambert.storage.run_directory import MANIFEST, TableDirectory, open_filesystem
from llambert.tables import BY_NAME, together


def repair(run: Run, executor: Executor = RAY) -> Iterator[Finding]:
    """Set aside what is damaged and make it again, until verify finds nothing; what it found, as it is found.

    ``RuntimeError`` naming what is left if a round mended nothing of what the round before it found.
    """
    before: list[str] = []
    while findings := verify(run):
        problems = [str(finding) for finding in findings]
        if problems == before:
            raise RuntimeError(f"repair: made again, and still {len(problems)} findings, the first: {problems[0]}")
        yield from findings
        set_aside(run, findings)
        pipeline(run, executor)
        before = problems


def set_aside(run: Run, findings: Iterable[Finding]) -> list[str]:
    """Move what ``findings`` name out of the tables of ``run``; the paths moved, below the run's directory.

    The pipeline then makes it again. Verify once more afterwards: what one damage hides behind another, and
    labels that belong to weights which did not come out the same, are found only then.
    """
    findings = list(findings)
    damaged: dict[tuple[str, ...], set[str]] = {}
    retrained = any(finding.table == "checkpoint" and not finding.redo for finding in findings)
    for finding in findings:
        if retrained and finding.table == "checkpoint" and finding.redo:
            continue  # whether the labels fit the checkpoint is seen when it is there again: on a CPU they do
        for table, part in finding.redo or ((finding.table, finding.part),):
            damaged.setdefault(together(table), set()).update([part] if part else [])
    if together("sample") in damaged:
        damaged.setdefault(together("responses"), set())  # its manifest alone: complete, it asks for no sample
    if damaged:
        damaged[together("report")] = set()  # its figures are of what was there before
    folder = f"{run.recipe.storage.rstrip('/')}/set_aside/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    moved = []
    for group, parts in damaged.items():
        for name in group:
            moved += _move(run.table(name), folder, parts, whole=BY_NAME[group[0]].is_made_whole)
    return moved


def _move(table: TableDirectory, folder: str, parts: set[str], whole: bool) -> list[str]:
    """Move the manifest first, without which a table is not complete, then ``parts``, or every file."""
    there = _file_names(table)
    names = [name for name in there if name == MANIFEST]
    names += [name for name in there if name != MANIFEST and (whole or name in parts or amended_part(name) in parts)]
    place = "/".join(table.uri.rsplit("/", 2)[1:])
    filesystem, target = open_filesystem(f"{folder}/{place}")
    for name in names:
        move_file(filesystem, table.path(name), f"{target}/{name}")
    return [f"{place}/{name}" for name in names]


def _file_names(table: TableDirectory) -> list[str]:
    """Those in folders below the table's too."""
    return sorted(str(path).removeprefix(table.path()).lstrip("/") for path in table.filesystem.find(table.path()))
