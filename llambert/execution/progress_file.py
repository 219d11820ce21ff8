"""``progress.json`` of a table while its stage works: read by ``llambert status`` and by the next start."""

import time
from datetime import UTC, datetime

from llambert.storage.run_directory import TableDirectory

EVERY_S = 2.0


class ProgressFile:
    """How far one table's stage is, over all its starts; made where a start begins.

    ``num_failures`` counts the starts that ended in an error; ``failure`` is what the last one said.
    """

    def __init__(self, table: TableDirectory, unit: str = "records") -> None:
        self._table, self._unit = table, unit
        self.earlier = table.read_progress()
        self._started, self._last_written = time.monotonic(), float("-inf")

    def seconds(self, **now: float) -> dict[str, float]:
        """``wall_seconds`` and those given, of this start, each added to what earlier starts had."""
        now["wall_seconds"] = time.monotonic() - self._started
        return {name: self.earlier.get(name, 0.0) + value for name, value in now.items()}

    def write(self, done: int, total: int | None, seconds: dict[str, float], failure: str | None = None) -> None:
        """Replace the file; ``seconds`` are those of all starts."""
        self._last_written = time.monotonic()
        self._table.write_progress(
            {
                "done": done,
                "total": total,
                "unit": self._unit,
                "num_failures": self.earlier.get("num_failures", 0) + (failure is not None),
                "failure": failure,
                **seconds,
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def write_now_and_then(self, done: int, total: int | None, seconds: dict[str, float]) -> None:
        """``write``, every two seconds at most and at the end."""
        if time.monotonic() - self._last_written >= EVERY_S or done == total:
            self.write(done, total, seconds)
