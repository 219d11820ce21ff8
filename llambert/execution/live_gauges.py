"""Gauges that Prometheus sees for as long as the process that set them lives, and no longer."""

import threading

import ray
from ray.util.metrics import Gauge


class LiveGauges:
    """Gauges of one process, each a value under ``tags``.

    Ray 2.60 exports a value of a gauge once, with the next report (every ten seconds), and a node forgets it after two
    reports without it: a gauge that is set once an hour would be absent for most of the hour. So a thread sets all of
    them again, twice for each report. Counters are the opposite: a node exports them until it ends itself, even if
    the process has ended. So only a gauge says whether a process is alive.
    """

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags
        self._gauges: dict[str, tuple[Gauge, float]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def set(self, name: str, description: str, value: float) -> None:
        """Set a gauge, from now on until the next call; ``description`` counts at the first."""
        with self._lock:
            known = self._gauges.get(name)
            gauge = known[0] if known else Gauge(name, description, tuple(self._tags))
            self._gauges[name] = (gauge, value)
            gauge.set(value, self._tags)
            if self._thread is None:
                self._thread = threading.Thread(target=self._refresh, name="gauges", daemon=True)
                self._thread.start()

    def _refresh(self) -> None:
        pause = threading.Event()
        report_s = max(ray._config.metrics_report_interval_ms(), 1000) / 1000  # Ray's own minimum is a second
        while not pause.wait(report_s / 2):
            with self._lock:
                for gauge, value in self._gauges.values():
                    gauge.set(value, self._tags)
