"""How long, and how fast, each replica of a stage worked."""

from dataclasses import dataclass

from llambert.execution import Outcome


@dataclass
class Span:
    """When one replica worked, how long its model was busy and how many rows it wrote, by its outcomes' measures."""

    started_at: float = float("inf")
    ended_at: float = 0.0
    busy_seconds: float = 0.0
    num_rows: int = 0
    _first: tuple[float, int] | None = None

    def add(self, outcome: Outcome) -> None:
        """One more unit that the replica did."""
        num_rows, ended_at = sum(part.num_rows for part in outcome.parts), outcome.measures["ended_at"]
        self._first = min((ended_at, num_rows), self._first or (ended_at, num_rows))
        self.started_at = min(self.started_at, outcome.measures["started_at"])
        self.ended_at = max(self.ended_at, ended_at)
        self.busy_seconds += outcome.busy_seconds
        self.num_rows += num_rows

    @property
    def busy_share(self) -> float:
        """The share of the replica's time in which its model worked."""
        return self.busy_seconds / max(self.ended_at - self.started_at, 1e-9)

    @property
    def rows_per_second(self) -> float:
        """The steady rate: without the first unit, where everything is done for the first time, unless it is alone."""
        first_ended_at, num_first = self._first or (0.0, 0)
        if self.ended_at > first_ended_at:
            return (self.num_rows - num_first) / (self.ended_at - first_ended_at)
        return self.num_rows / max(self.ended_at - self.started_at, 1e-9)
