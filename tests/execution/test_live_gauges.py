"""What Ray exports of a gauge while its process lives, and after."""

import time
import urllib.request

import pytest
import ray

from llambert.execution.live_gauges import LiveGauges

pytestmark = pytest.mark.slow


class Process:
    """Sets a gauge once, and a counter beside it."""

    def __init__(self):
        self.gauges = LiveGauges({"run": "films"})
        self.gauges.set("llambert_replicas", "of a test", 1)
        self.counter = ray.util.metrics.Counter("llambert_records", "of a test", ("run",))
        self.counter.inc(3, {"run": "films"})

    def ready(self):
        return True


def exported(port: int) -> set[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {line.partition("{")[0] for line in lines if line.startswith("ray_llambert_")}


def wait_until_exported(port: int, expected: set[str]) -> None:
    deadline = time.monotonic() + 30
    while exported(port) != expected:
        assert time.monotonic() < deadline, exported(port)
        time.sleep(0.2)


def test_a_gauge_set_once_is_there_until_its_process_ends_and_a_counter_stays(monkeypatch):
    """Ray would forget the gauge two reports after it was set; a report is a second here."""
    both, counter = {"ray_llambert_replicas", "ray_llambert_records_total"}, {"ray_llambert_records_total"}
    ray.shutdown()
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        port = context.address_info["metrics_export_port"]
        process = ray.remote(num_cpus=0)(Process).remote()
        ray.get(process.ready.remote())
        wait_until_exported(port, both)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert exported(port) == both
            time.sleep(0.2)
        ray.kill(process)
        wait_until_exported(port, counter)
    finally:
        ray.shutdown()
