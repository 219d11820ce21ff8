"""The progress of each table of a run, during the job and after it, from listings and ``progress.json`` alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from llambert.corpora.checks import warnings
from llambert.errors import InputError
from llambert.execution.progress import format_duration
from llambert.integrity.source_changes import source_note
from llambert.run import Run
from llambert.storage.run_directory import TableDirectory

# A working stage rewrites its progress every few seconds, or once per part.
_STALE_AFTER_S = 600.0


@dataclass(frozen=True)
class TableStatus:
    """One table. ``done`` and ``total`` count ``unit``s, None where nothing has said how many.

    ``state``: ``complete`` (it has a manifest), ``working`` (progress was written in the last ten minutes),
    ``stopped`` (it has progress or parts, and nothing newer: the job died or was ended), ``not started`` (also of a
    table that grows, for this generation of the corpus), ``damaged`` (its manifest cannot be read), or ``kept`` (an
    answer store: never complete, and shown once it has parts).
    ``rate`` is per second over all starts, Ray's and the model's start included; ``eta_seconds`` by it.
    ``num_failures`` counts the starts that ended in an error, ``failure`` is the last one's message.
    ``stopped_by``: the signal that ended the last start.
    """

    name: str
    state: str
    num_parts: int = 0
    done: int | None = None
    total: int | None = None
    unit: str = "records"
    rate: float | None = None
    eta_seconds: float | None = None
    num_rejected: int = 0
    num_failures: int = 0
    failure: str | None = None
    stopped_by: str | None = None
    updated_at: str | None = None
    warnings: Sequence[str] = ()
    """Of a complete corpus: what ingest warned of, and how the source has changed since. Of a checkpoint that stays
    through several generations of the corpus: why."""


def status(run: Run) -> list[TableStatus]:
    """The tables of ``run``, of the generation of the corpus that was read last, in pipeline order.

    Those of a section that the recipe does not have are left out. Nothing is written, no row is read.
    """
    note, run = source_note(run), run.last_read()
    found = [
        _store_status(table.name, run.table(table.name))
        if table.is_store
        else table_status(table.name, run.table(table.name))
        for table in run.tables
        if table.is_store or (table.is_shown and (not table.section or getattr(run.recipe, table.section) is not None))
    ]
    tables = {table.name: table for table in found if table is not None}
    if tables["corpus"].state == "complete" and (manifest := run.table("corpus").read_manifest()):
        notes = [*warnings(manifest.counts, run.recipe.corpus), *([note] if note else [])]
        tables["corpus"] = replace(tables["corpus"], warnings=notes)
    if "checkpoint" in tables and run.decision and run.decision.stays:
        notes = [f"that of an earlier generation of the corpus stays: {run.decision.reason}"]
        tables["checkpoint"] = replace(tables["checkpoint"], warnings=notes)
    return list(tables.values())


def _store_status(name: str, table: TableDirectory) -> TableStatus | None:
    """A store that has parts, from one listing."""
    try:
        num_parts = len(table.part_names())
    except InputError as error:
        return TableStatus(name, "damaged", failure=str(error))
    return TableStatus(name, "kept", num_parts=num_parts) if num_parts else None


def table_status(name: str, table: TableDirectory) -> TableStatus:
    """One table, from its manifest or else from its listing and its progress file."""
    try:
        manifest = table.read_manifest()
        num_parts, progress = len(table.part_names()), table.read_progress()
    except InputError as error:
        return TableStatus(name, "damaged", failure=str(error))
    if manifest is not None:
        return TableStatus(
            name,
            "complete",
            num_parts=len(manifest.parts),
            done=manifest.num_in,
            total=manifest.num_in,
            rate=manifest.num_in / manifest.wall_seconds if manifest.wall_seconds else None,
            num_rejected=sum(manifest.num_rejected.values()),
            updated_at=manifest.completed_at,
        )
    if not progress:
        return TableStatus(name, "stopped" if num_parts else "not started", num_parts=num_parts)
    if progress.get("generation", table.generation) != table.generation:  # its parts are of before
        return TableStatus(name, "not started", num_parts=num_parts)
    done, total, seconds = progress.get("done"), progress.get("total"), progress.get("wall_seconds", 0.0)
    rate = done / seconds if done and seconds else None
    written = progress.get("updated_at")
    age = (datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds() if written else _STALE_AFTER_S + 1
    failure, stopped_by = progress.get("failure"), progress.get("stopped_by")
    return TableStatus(
        name,
        "stopped" if failure or stopped_by or age > _STALE_AFTER_S else "working",
        num_parts=num_parts,
        done=done,
        total=total,
        unit=progress.get("unit", "records"),
        rate=rate,
        eta_seconds=(total - done) / rate if rate and done and total is not None else None,
        num_failures=progress.get("num_failures", 0),
        failure=failure,
        stopped_by=stopped_by,
        updated_at=written,
    )


def render(tables: list[TableStatus], width: int = 110) -> str:
    """The tables as text, a line each, and the message of a failure below."""
    grid = Table(box=None, pad_edge=False)
    for heading in ("table", "state"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("done", "rate", "left", "parts", "rejected", "failures", "updated"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for table in tables:
        done = "" if table.done is None else f"{table.done:,}"
        if table.total is not None and table.total != table.done:
            done += f"/{table.total:,}"
        grid.add_row(
            table.name,
            table.state,
            f"{done} {table.unit}" if done else "",
            f"{table.rate:,.1f}/s" if table.rate else "",
            "" if table.eta_seconds is None else format_duration(table.eta_seconds),
            f"{table.num_parts:,}" if table.num_parts else "",
            f"{table.num_rejected:,}" if table.num_rejected else "",
            f"{table.num_failures}" if table.num_failures else "",
            (table.updated_at or "").replace("T", " ").removesuffix("+00:00"),
        )
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(grid)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    lines += [f"{table.name}: {warning}" for table in tables for warning in table.warnings]
    says = {"damaged": ":", "stopped": " failed:"}
    lines += [f"{table.name}{says[table.state]} {table.failure}" for table in tables if table.failure]
    resume = "start the same command again to resume"
    lines += [f"{table.name}: stopped by {table.stopped_by}; {resume}" for table in tables if table.stopped_by]
    return "\n".join(lines)
