"""Progress of a stage: a bar with rate and ETA in a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bars

LINE_EVERY_S = 10.0


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Counts ``advance`` calls against ``total``; rate and ETA are of this start, not of what was done before.

    >>> with Progress("label", total=12_808, unit="records", done=1_000) as progress:
    ...     progress.advance(256)
    """

    def __init__(self, title: str, total: int | None, unit: str = "records", done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self._done_before = done, done
        self._started = self._last_line = time.monotonic()
        self._bars: Bars | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            self._bars = Bars(
                SpinnerColumn(),
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TextColumn("{task.fields[tracker].rate_and_eta}"),
                console=console,
            )
            self._bars.start()
            self._bar = self._bars.add_task(self.title, total=self.total, completed=self.done, tracker=self)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()
        elif kind is None:
            self._print_line()

    def advance(self, num: int = 1) -> None:
        """``num`` more units are done."""
        self.done += num
        if self._bars is not None:
            self._bars.update(self._bar, completed=self.done)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._print_line()

    @property
    def rate_and_eta(self) -> str:
        """For example ``118.2/s, 1:32 left``."""
        elapsed = time.monotonic() - self._started
        rate = (self.done - self._done_before) / elapsed if elapsed > 0 else 0.0
        text = f"{rate:,.1f}/s"
        if self.total is not None and rate > 0:
            text += f", {format_duration(max(self.total - self.done, 0) / rate)} left"
        return text

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        total = f"/{self.total:,}" if self.total is not None else ""
        print(f"{self.title}: {self.done:,}{total} {self.unit}, {self.rate_and_eta}", file=sys.stderr, flush=True)
