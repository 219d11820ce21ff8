"""What one replica of a stage did, as Ray metrics: in the dashboard, and for Prometheus at the nodes' metrics ports."""

import logging
import time
from collections import Counter as Totals
from collections.abc import Iterable, Iterator

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from llambert.execution.live_gauges import LiveGauges

log = logging.getLogger(__name__)

_TAGS = ("run", "stage", "replica")
_GAUGES = {
    "llambert_replicas": "1 of each replica, from before it loads its model until its process ends.",
    "llambert_busy_share": "Share of its time that the model works.",
    "llambert_padding_waste": "Share of the token positions computed that were padding.",
}


class ReplicaMetrics:
    """Counters ``llambert_<name>`` of one actor, tagged with run, stage and replica. Made before the model is loaded.

    ``llambert_replicas`` says that the replica is alive: its counters outlive it. ``llambert_busy_seconds`` is the
    time its model worked, ``llambert_busy_share`` that time over the time since its first unit of work began,
    ``llambert_accelerator_seconds`` the time its ``num_gpus`` were held; ``llambert_padding_waste``, of a stage that
    counts padded tokens, the share of them that is padding. ``replica`` is the actor's id in Ray; empty outside an
    actor, where nothing is exported either.

    Every unit of work is a line of the log too, with run, stage and part as fields of their own where logs are JSON
    (``RAY_LOGGING_CONFIG_ENCODING=JSON``), and never a text.
    """

    def __init__(self, run: str, stage: str, num_gpus: float = 0.0) -> None:
        context = ray.get_runtime_context() if ray.is_initialized() else None
        self.replica = (context.get_actor_id() or "") if context else ""
        # Ray takes ASCII alone, and a run is also the URI of any folder.
        named = run.encode("ascii", errors="backslashreplace").decode()
        self._tags = {"run": named, "stage": stage, "replica": self.replica}
        self._num_gpus, self._counted_until = num_gpus, time.monotonic()
        self._counters: dict[str, Counter] = {}
        self._gauges = LiveGauges(self._tags)
        self._totals: Totals[str] = Totals()
        self._busy_seconds = 0.0
        self._began: float | None = None
        if self.replica:
            self._set_gauge("llambert_replicas", 1)

    def reading(self, windows: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """``windows`` of records; each counts as ``llambert_read_records`` when it is taken.

        On CPUs a part takes hours and its other counts come at its end; by these it is seen to be worked on.
        """
        for window in windows:
            if self.replica:
                self._increment("num_read_records", window.num_rows)
            yield window

    def add(self, counts: dict[str, int], busy_seconds: float, part: str = "") -> None:
        """One unit of work is done: what it counted, how long the model was busy with it, and the part it became."""
        now = time.monotonic()
        fields = {**self._tags, "part": part, "busy_seconds": round(busy_seconds, 3), **counts}
        log.info("%s: %s is committed", self._tags["stage"], part or "a part", extra=fields)
        if self._began is None:
            self._began = now - busy_seconds
        if not self.replica:
            return
        for name, count in counts.items():
            self._increment(name, count)
        self._increment("busy_seconds", busy_seconds)
        if self._num_gpus:
            self._increment("accelerator_seconds", self._num_gpus * (now - self._counted_until))
            self._counted_until = now
        self._busy_seconds += busy_seconds
        self._totals.update(counts)
        self._set_gauge("llambert_busy_share", self._busy_seconds / max(now - self._began, 1e-9))
        if padded := self._totals["num_padded_tokens"]:
            self._set_gauge("llambert_padding_waste", 1 - self._totals["num_tokens"] / padded)

    def _set_gauge(self, name: str, value: float) -> None:
        self._gauges.set(name, _GAUGES[name], value)

    def _increment(self, name: str, value: float) -> None:
        if name not in self._counters:
            described = name.removeprefix("num_").replace("_", " ")
            self._counters[name] = Counter(f"llambert_{name.removeprefix('num_')}", f"{described}, so far", _TAGS)
        if value > 0:  # Ray refuses to count nothing
            self._counters[name].inc(value, self._tags)
