"""The progress of each table of a run, during the job and after it, from listings and ``progress.json`` alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from llambert.corpora.checks import warnings
from llambert.execution.progress import format_duration
from llambert.run import Run
from llambert.storage.run_directory import TableDirectory

# A working stage rewrites its progress every few seconds, or once per part.
_STALE_AFTER_S = 600.0


@dataclass(frozen=True)
class TableStatus:
    """One table. ``done`` and ``total`` count ``unit``s, None where nothing has said how many.

    ``state``: ``complete`` (it has a manifest), ``working`` (progress was written in the last ten minutes),
    ``stopped`` (it has progress or parts, and nothing newer: the job died or was ended) or ``not started``.
    ``rate`` is per second over all starts, Ray's and the model's start included; ``eta_seconds`` by it.
    ``num_failures`` counts the starts that ended in an error, ``failure`` is the last one's message.
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
    updated_at: str | None = None
    warnings: Sequence[str] = ()
    """Of a complete corpus: what ingest warned of."""


def status(run: Run) -> list[TableStatus]:
    """The tables of ``run`` in pipeline order; nothing is written, no row is read."""
    tables = {table.name: table_status(table.name, run.table(table.name)) for table in run.tables if table.is_shown}
    if manifest := run.table("corpus").read_manifest():
        tables["corpus"] = replace(tables["corpus"], warnings=warnings(manifest.counts, run.recipe.corpus))
    return list(tables.values())


def table_status(name: str, table: TableDirectory) -> TableStatus:
    """One table, from its manifest or else from its listing and its progress file."""
    manifest = table.read_manifest()
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
    num_parts, progress = len(table.part_names()), table.read_progress()
    if not progress:
        return TableStatus(name, "stopped" if num_parts else "not started", num_parts=num_parts)
    done, total, seconds = progress["done"], progress.get("total"), progress.get("wall_seconds", 0.0)
    rate = done / seconds if done and seconds else None
    age = (datetime.now(UTC) - datetime.fromisoformat(progress["updated_at"])).total_seconds()
    failure = progress.get("failure")
    return TableStatus(
        name,
        "stopped" if failure or age > _STALE_AFTER_S else "working",
        num_parts=num_parts,
        done=done,
        total=total,
        unit=progress.get("unit", "records"),
        rate=rate,
        eta_seconds=(total - done) / rate if rate and total is not None else None,
        num_failures=progress.get("num_failures", 0),
        failure=failure,
        updated_at=progress["updated_at"],
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
    lines += [f"{table.name} failed: {table.failure}" for table in tables if table.failure]
    return "\n".join(lines)
