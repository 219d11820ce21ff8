"""Continuous labelling on one Ray cluster and one S3 server, a fault a minute: exactly once, and nothing grows?

    python -m tests.drills.soak --minutes 60 [--seed 0] [--fault-every 60] [--plot soak.png]

A corpus is labelled, compared with the undisturbed labels row for row, its labels are removed, and it is labelled
again. Every ten seconds the resident memory and the open files of each kind of process are taken. Exit status 1 if a
record was lost, twice or altered, or if a kind was not flat: in the last third of the time, the median of its largest
process' memory or files is more than a tenth, and 30 MiB or 20 files, above that of the first third.
"""

import argparse
import csv
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import psutil

from llambert.integrity.verify import verify
from tests.drills.drill import undisturbed
from tests.drills.drill_pipeline import compare_tables, end_driver
from tests.drills.fault_injection import DrillRun
from tests.drills.schedule import FAULTS, Fault
from tests.drills.testbed import Testbed, running_testbed
from tests.fixtures.processes import title

RUN = "undisturbed"
LABELS = ("labels", "label_rejects")
LONG_LIVED = ("kill head", "clock jump", "corrupt part", "delete part", "truncate manifest")
KINDS = [kind for kind in FAULTS if kind not in LONG_LIVED]  # the head is to live all the time
SAMPLE_EVERY_S = 10.0
ROWS_PER_FILE = 1_000
MAX_STARTS = 20
SLACK = {"MiB": 30.0, "files": 20.0}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # what was started is ended too
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--plot", type=Path, default=Path("soak.png"), help="its figures go beside it, as .csv")
    arguments = parser.parse_args()
    with running_testbed(rows_per_file=ROWS_PER_FILE) as testbed:
        soak = Soak(testbed, arguments.seed, arguments.fault_every)
        with Samples(testbed, soak) as samples:
            soak.label_for(60 * arguments.minutes)
    samples.write(arguments.plot)
    growing = samples.verdict()
    faults = ", ".join(f"{num} {kind}" for kind, num in soak.faults.items())
    print(f"{soak.num_rounds} rounds, {soak.num_records:,} records labelled, {soak.num_starts} starts of the driver")
    print(f"{soak.faults.total()} faults: {faults}")
    print("; ".join(soak.problems) or "every record labelled once in every round, as undisturbed")
    print(f"not flat: {', '.join(growing)}" if growing else "memory and open files of every kind of process: flat")
    return 1 if soak.problems or growing else 0


class Soak:
    """Labels one corpus repeatedly while faults are injected."""

    def __init__(self, testbed: Testbed, seed: int, fault_every_s: float) -> None:
        self.testbed, self.rng, self.fault_every_s = testbed, random.Random(seed), fault_every_s
        self.expected = undisturbed(testbed)
        self.drill_run = DrillRun(testbed, RUN)
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.num_rounds = self.num_starts = self.num_records = 0
        self.next_fault = time.monotonic() + fault_every_s

    def label_for(self, seconds: float) -> None:
        """Label in rounds for so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.problems:
            self._remove_labels()
            self._label()
            run = self.drill_run.run
            self.problems += [str(finding) for finding in verify(run)][:5]
            found = {name: run.table(name).read().to_pylist() for name in LABELS}
            self.problems += compare_tables(found, self.expected).notes
            self.num_rounds += 1
            self.num_records += len(found["labels"])
            print(f"round {self.num_rounds}: {self.num_starts} starts, {self.faults.total()} faults so far", flush=True)

    def _remove_labels(self) -> None:
        for name in LABELS:
            table = self.drill_run.run.table(name)
            table.filesystem.rm(table.path(), recursive=True)

    def _label(self) -> None:
        """Start the job until it ends with 0."""
        for _ in range(MAX_STARTS):
            self.num_starts += 1
            self.drill_run.driver = driver = self.testbed.start_driver(RUN, "label")
            while driver.is_alive():
                driver.join(0.2)
                if driver.is_alive() and time.monotonic() > self.next_fault and self.drill_run.has_begun("label"):
                    self._inject()
            for one in [driver, *self.drill_run.others]:
                one.join()
                end_driver(one)
            self.drill_run.others.clear()
            self.testbed.restore()
            if driver.exitcode == 0:
                return
        self.problems.append(f"not labelled after {MAX_STARTS} starts")

    def _inject(self) -> None:
        kind = self.rng.choice(KINDS)
        longest = FAULTS[kind]
        fault = Fault("label", 0.0, kind, round(self.rng.uniform(0.3, longest), 2) if longest else 0.0)
        if self.drill_run.inject(fault):
            self.faults[kind] += 1
            self.next_fault = time.monotonic() + self.fault_every_s
            print(f"fault {self.faults.total()}: {fault}", flush=True)


class Samples:
    """Of each kind of process, every ten seconds, the largest memory and peak_nodes open files of one, and how many."""

    def __init__(self, testbed: Testbed, soak: Soak) -> None:
        self.testbed, self.soak, self.rows = testbed, soak, []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Samples":
        self.began = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _sample(self) -> None:
        while not self.ended.wait(SAMPLE_EVERY_S):
            largest: dict[str, dict[str, float]] = defaultdict(lambda: {"MiB": 0.0, "files": 0.0, "processes": 0})
            for kind, process in self._processes():
                try:
                    memory, files = process.memory_info().rss / 2**20, process.num_fds()
                except psutil.Error:
                    continue
                of_kind = largest[kind]
                of_kind["processes"] += 1
                of_kind["MiB"], of_kind["files"] = max(of_kind["MiB"], memory), max(of_kind["files"], files)
            seconds = round(time.monotonic() - self.began, 1)
            self.rows += [{"seconds": seconds, "kind": kind, **values} for kind, values in sorted(largest.items())]

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        driver = self.soak.drill_run.driver
        found = [("drill", psutil.Process())]
        for process in psutil.Process().children(recursive=True):
            name = title(process)
            if driver is not None and process.pid == driver.pid:
                found.append(("driver", process))
            elif name.startswith("ray::MapWorker"):
                found.append(("actor", process))
            elif name.startswith("ray::IDLE"):
                found.append(("idle worker", process))
            elif name in ("raylet", "gcs_server", "weed"):
                found.append(({"weed": "S3 server", "gcs_server": "GCS"}.get(name, name), process))
            elif name.startswith("ray-") or "agent" in name:
                found.append(("agent", process))
        return found

    def of_kind(self, kind: str, figure: str) -> list[tuple[float, float]]:
        """Seconds and the figure, in order."""
        return [(row["seconds"], row[figure]) for row in self.rows if row["kind"] == kind]

    def verdict(self) -> list[str]:
        """Print the table of medians; the kinds and figures that were not flat."""
        growing = []
        print("| process | samples | MiB, first third | last third | files, first third | last third |")
        print("|---|---|---|---|---|---|")
        for kind in sorted({row["kind"] for row in self.rows}):
            cells = []
            for figure, slack in SLACK.items():
                values = [value for _, value in self.of_kind(kind, figure)]
                third = max(1, len(values) // 3)
                first, last = median(values[:third]), median(values[-third:])
                cells += [f"{first:.0f}", f"{last:.0f}"]
                if last > first * 1.1 and last > first + slack:
                    growing.append(f"{kind} ({figure})")
            print(f"| {kind} | {len(values)} | {' | '.join(cells)} |")
        return growing

    def write(self, plot: Path) -> None:
        """The figures as CSV, and drawn."""
        import matplotlib.pyplot as plt

        with plot.with_suffix(".csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["seconds", "kind", "MiB", "files", "processes"])
            writer.writeheader()
            writer.writerows(self.rows)
        figure, axes = plt.subplots(2, 1, figsize=(9, 8), sharex=True)
        for axis, name in zip(axes, SLACK, strict=True):
            for kind in sorted({row["kind"] for row in self.rows}):
                points = self.of_kind(kind, name)
                axis.plot([seconds / 60 for seconds, _ in points], [value for _, value in points], label=kind)
            axis.set_ylabel("resident memory, MiB" if name == "MiB" else "open files")
            axis.set_ylim(bottom=0)
        axes[0].legend(fontsize="small", ncols=4)
        axes[1].set_xlabel("minutes")
        figure.savefig(plot, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
