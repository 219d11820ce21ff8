"""Progress of a stage over all its starts: committed parts, seconds, and failures."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from llambert import stopping
from llambert.errors import InputError, last_line
from llambert.execution import Executor, Outcome, Pool, Worker
from llambert.execution.progress import Progress
from llambert.execution.spans import Span
from llambert.storage.manifest import Part
from llambert.storage.run_directory import TableDirectory

WRITE_EVERY_S = 2.0


class ProgressFile:
    """``progress.json`` of a table: read by ``llambert status`` and by the next start; made where a start begins.

    ``num_failures`` counts the starts that ended in an error; ``failure`` is what the last one said. ``stopped_by``:
    the signal that ended it instead.
    """

    def __init__(self, table: TableDirectory, unit: str = "records") -> None:
        self._table, self._unit = table, unit
        self.earlier = table.read_progress()
        self._started, self._last_written = time.monotonic(), float("-inf")

    def seconds(self, **now: float) -> dict[str, float]:
        """``wall_seconds`` and those given, of this start, each added to what earlier starts had."""
        now["wall_seconds"] = time.monotonic() - self._started
        return {name: self.earlier.get(name, 0.0) + value for name, value in now.items()}

    def write(
        self, done: int, total: int | None, seconds: dict[str, float], error: BaseException | None = None
    ) -> None:
        """Replace the file; ``seconds`` are those of all starts, ``error`` is what ended this one."""
        self._last_written = time.monotonic()
        stopped_by = stopping.stopped_by(error) if error else None
        failure = last_line(error) if error and not stopped_by else None
        self._table.write_progress(
            {
                "fingerprint": self._table.fingerprint,
                "generation": self._table.generation,
                "done": done,
                "total": total,
                "unit": self._unit,
                "num_failures": self.earlier.get("num_failures", 0) + (failure is not None),
                "failure": failure,
                "stopped_by": stopped_by,
                **seconds,
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def write_throttled(self, done: int, total: int | None, seconds: dict[str, float]) -> None:
        """``write``, every two seconds at most and at the end."""
        if time.monotonic() - self._last_written >= WRITE_EVERY_S or done == total:
            self.write(done, total, seconds)


def _count_units(_: Outcome) -> int:
    return 1


def _count_records(outcome: Outcome) -> int:
    return sum(part.num_in for part in outcome.parts)


class StageProgress:
    """One start of a stage whose units an executor runs: progress bar, ``progress.json`` and measures.

    ``total`` (by default, the units of this start) and ``num_done`` count ``unit``s over all starts; ``num_in`` says
    how many an outcome stands for. ``parts``: what is committed of ``table``, at first by earlier starts, for which
    ``num_done`` stands where they are in no parts of its own.
    """

    def __init__(
        self,
        stage: str,
        table: TableDirectory,
        total: int | None = None,
        unit: str = "units",
        num_in: Callable[[Outcome], int] = _count_units,
        committed: Sequence[Part] = (),
        num_done: int = 0,
    ) -> None:
        self.stage, self.total, self._unit, self._num_in = stage, total, unit, num_in
        self.num_done = self.num_done_before = num_in(Outcome(list(committed))) if committed else num_done
        self.parts, self._num_committed = list(committed), len(committed)
        self.notes: list[str] = []
        self.spans: dict[str, Span] = {}
        self._file = ProgressFile(table, unit)
        self._started_at = time.time()
        self._busy_seconds = self._accelerator_seconds = 0.0

    def run(
        self,
        executor: Executor,
        worker: type[Worker],
        arguments: tuple[Any, ...],
        units: list[dict[str, Any]],
        pool: Pool,
    ) -> None:
        """Run ``units``. An exception is recorded in ``progress.json`` and raised; committed parts stay.

        ``InputError`` as the worker raises it.
        """
        self.total = len(units) if self.total is None else self.total
        self._file.write(self.num_done, self.total, self.seconds)
        stopped = stopping.recorded(lambda: self._file.write(self.num_done, self.total, self.seconds, SystemExit()))
        try:
            with stopped, Progress(self.stage, total=self.total, unit=self._unit, done=self.num_done) as bar:
                for outcome in executor.run(self.stage, worker, arguments, units, pool):
                    self._add(outcome)
                    bar.advance(self.num_done - bar.done)
        except BaseException as error:
            self._file.write(self.num_done, self.total, self.seconds, error)
            raise

    def _add(self, outcome: Outcome) -> None:
        """One more unit is done."""
        self.parts += outcome.parts
        self.num_done += self._num_in(outcome)
        self._busy_seconds += outcome.busy_seconds
        self._accelerator_seconds += outcome.measures.get("accelerator_seconds", 0.0)
        if "started_at" in outcome.measures:
            self.spans.setdefault(outcome.replica, Span()).add(outcome)
        for note in dict.fromkeys(outcome.notes):
            if note not in self.notes:
                self.notes.append(note)
                print(f"{self.stage}: {note}", flush=True)
        self._file.write_throttled(self.num_done, self.total, self.seconds)

    @property
    def new_parts(self) -> list[Part]:
        """Those of this start."""
        return self.parts[self._num_committed :]

    @property
    def busy_seconds(self) -> float:
        """Of this start, summed over workers."""
        return self._busy_seconds

    @property
    def seconds(self) -> dict[str, Any]:
        """``wall_seconds``, ``busy_seconds`` and ``accelerator_seconds`` of all starts together, as a manifest has."""
        return self._file.seconds(busy_seconds=self._busy_seconds, accelerator_seconds=self._accelerator_seconds)

    @property
    def working_seconds(self) -> float:
        """Since the first replica was at work, in this start; one must have been."""
        return time.time() - min(span.started_at for span in self.spans.values())

    def measures(self) -> dict[str, float]:
        """Of this start, by replica: ``startup_seconds`` until the first was at work, rates from then on.

        ``records_per_second`` is from the first record to the last, over all replicas; ``replica_rate.<n>`` that of
        the n-th one after its first part; ``busy_share.<n>``, of its time, the model's. Empty if nothing was done.
        """
        if not self.spans:
            return {}
        spans = list(self.spans.values())
        first, last = min(span.started_at for span in spans), max(span.ended_at for span in spans)
        return {
            "startup_seconds": first - self._started_at,
            "records_per_second": sum(span.num_rows for span in spans) / max(last - first, 1e-9),
            **{f"replica_rate.{n}": span.rows_per_second for n, span in enumerate(spans)},
            **{f"busy_share.{n}": span.busy_share for n, span in enumerate(spans)},
        }


class PartByPartProgress(StageProgress):
    """Of a stage that makes one part of each part of a table ``upstream``, of the same name."""

    def __init__(self, stage: str, table: TableDirectory, upstream: Sequence[Part]) -> None:
        committed = table.committed_parts({part.name for part in upstream})
        super().__init__(stage, table, sum(part.num_rows for part in upstream), "records", _count_records, committed)
        self.upstream = upstream

    @property
    def remaining(self) -> list[Part]:
        """The parts of ``upstream`` without a committed part of the same name."""
        done = {part.name for part in self.parts}
        return [part for part in self.upstream if part.name not in done]

    def run_parts(self, executor: Executor, worker: type[Worker], arguments: tuple[Any, ...], pool: Pool) -> list[Part]:
        """Make what remains, by units ``{"name", "num_rows"}`` of the upstream parts; all parts in upstream order.

        ``RuntimeError`` names the parts that could not be made.
        """
        units = [{"name": part.name, "num_rows": part.num_rows} for part in self.remaining]
        try:
            self.run(executor, worker, arguments, units, pool)
        except InputError:
            raise
        except Exception as error:
            missing = [part.name for part in self.remaining]
            raise RuntimeError(
                f"{self.stage}: {len(missing)} of {len(self.upstream)} parts are not done ({', '.join(missing[:5])}"
                f"{', …' if len(missing) > 5 else ''}); committed parts are kept, start the same command again to "
                "resume"
            ) from error
        assert not self.remaining, f"{self.stage}: parts without an outcome: {self.remaining[:5]}"
        by_name = {part.name: part for part in self.parts}
        return [by_name[part.name] for part in self.upstream]
