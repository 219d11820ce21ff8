"""What the replicas of a stage export as Ray metrics, read as Prometheus reads it."""

import time
import urllib.request


def scrape(port: int, stage: str) -> dict[str, float]:
    """The stage's metrics at a node's metrics port, each summed over its replicas."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    totals: dict[str, float] = {}
    for line in lines:
        name, _, rest = line.partition("{")
        if name.startswith("ray_llambert_") and f'stage="{stage}"' in rest:
            key = name.removeprefix("ray_llambert_").removesuffix("_total")
            totals[key] = totals.get(key, 0.0) + float(rest.rpartition(" ")[2])
    return totals


def scrape_when(port: int, stage: str, num_records: int) -> dict[str, float]:
    """``scrape`` once so many records are counted: an actor sends its counts every few seconds."""
    deadline = time.monotonic() + 60
    while True:
        exported = scrape(port, stage)
        if exported.get("records", 0) == num_records or time.monotonic() > deadline:
            return exported
        time.sleep(1)
