"""A million records labelled from and to a real S3 server: every record once, flat memory, a steady cost per record.

    python -m tests.benchmarks.bench_label_million [--records 100000 1000000] [--folder FOLDER] [--plot memory.png]

Texts have the lengths of film reviews in words; a tiny encoder labels them, so that what is measured is the stage
and the store. Each number of records is a run of its own, labelled by two actors from a driver in a process of its
own. Every second each process is asked for its memory (USS: what it shares with no other) and its CPU time. With
``--folder`` a run that was stopped goes on where it was. Ends with what the same would be for 100 million records,
from the bytes and requests measured per part. Exit status 1 where a record is missing or twice, memory grows, or a
record costs a tenth more in the larger run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib.pyplot as plt
import numpy as np
import psutil

from llambert.integrity.verify import verify
from llambert.recipe import LabelRecipe
from llambert.run import Run
from llambert.stages.label import LabelPart, label
from llambert.storage.manifest import Manifest
from tests.benchmarks.bench_classifier import review_texts
from tests.benchmarks.bench_label import make_run
from tests.fixtures.s3_server import running_server
from tests.fixtures.tiny_classifier import WORDS, save_tiny_classifier

ROWS_PER_PART = 10_000
MAX_COST, MAX_GROWTH, SLACK_MIB = 1.1, 1.1, 32
PAPER_RECORDS, PAPER_ROWS_PER_PART, KEYS_PER_LISTING = 100_000_000, 50_000, 1_000
ROLES = {"ray::MapWorker": "actor", "raylet": "raylet", "gcs_server": "gcs", "weed": "S3 server"}
Samples = dict[str, list[tuple[float, float, float]]]
"""Process -> (seconds since the start, USS in MiB, CPU seconds so far)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--label", type=int, metavar="RECORDS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.label:
        label(open_bench(arguments.folder, arguments.label))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        with running_server(folder / "s3") as server:
            results = [measure(folder, num, server.process.pid) for num in arguments.records]
            print_on_paper(results[-1][0], results[-1][1])
        if arguments.plot:
            plot([samples for _, _, samples in results], arguments.records, arguments.plot)
    costs = [seconds_per_million(manifest) for _, manifest, _ in results]
    ratio = costs[1] / costs[0]
    print(
        f"a million records cost {costs[0]:.1f} s of both actors in the smaller run, {costs[1]:.1f} in the larger: "
        f"{ratio:.3f}"
    )
    return 0 if ratio <= MAX_COST and is_flat(results[-1][2]) else 1


def open_bench(folder: Path, num_records: int) -> Run:
    """The run of ``num_records``; its corpus and checkpoint are made unless they are there."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        save_tiny_classifier(checkpoint)
    recipe = LabelRecipe(min_actors=2, max_actors=2, cpus_per_actor=1.0)
    return make_run(f"s3://llambert-test/run-{num_records}", str(checkpoint), synthetic_parts(num_records), recipe)


def synthetic_parts(num_records: int) -> Iterator[list[str]]:
    """Texts as long, in words, as film reviews are; the same whenever they are made."""
    lengths = np.array([len(text.split()) for text in review_texts()])
    for part, start in enumerate(range(0, num_records, ROWS_PER_PART)):
        generator = np.random.default_rng(part)
        words = np.array(WORDS)
        chosen = generator.choice(lengths, min(ROWS_PER_PART, num_records - start))
        yield [" ".join(words[generator.integers(0, len(words), length)]) for length in chosen]


def measure(folder: Path, num_records: int, server: int) -> tuple[Run, Manifest, Samples]:
    """Label in a process of its own, watch it, and prove that every record is there once."""
    run = open_bench(folder, num_records)
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench_label_million",
        "--folder",
        str(folder),
        "--label",
        str(num_records),
    ]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples: Samples = defaultdict(list)
    while driver.poll() is None:
        sample(driver.pid, server, time.monotonic() - started, samples)
        time.sleep(1)
    assert driver.returncode == 0, f"the driver ended with {driver.returncode}"
    manifest = run.table("labels").require_manifest()
    wrong = [str(f) for f in verify(run) if f.table in ("corpus", "labels", "label_rejects")]
    assert manifest.num_kept == num_records, f"{manifest.num_kept} of {num_records} labelled"
    assert wrong == [], wrong[:5]
    print(f"\n{num_records:,} records of {manifest.counts['num_tokens'] / num_records:.1f} tokens, every one once: "
          f"{manifest.wall_seconds:.0f} s ({num_records / manifest.wall_seconds:,.0f}/s) with Ray's start, "
          f"{manifest.measures['records_per_second']:,.0f}/s from first to last, "
          f"padding waste {manifest.measures['padding_waste']:.2%}")  # fmt: skip
    for name, taken in samples.items():
        memory = [uss for _, uss, _ in taken]
        settled = memory[len(memory) // 4 : len(memory) // 2] or memory
        cpu_us = (taken[-1][2] - taken[0][2]) / num_records * 1e6
        print(f"  {name:12} peak {max(memory):6.0f} MiB, in its second quarter {max(settled):6.0f}, in its last "
              f"{max(memory[-len(memory) // 4 :]):6.0f}; {cpu_us:5.1f} us of CPU a record")  # fmt: skip
    return run, manifest, samples


def sample(driver: int, server: int, seconds: float, samples: Samples) -> None:
    try:
        family = {"driver": psutil.Process(driver), "S3 server": psutil.Process(server)}
        for child in psutil.Process(driver).children(recursive=True):
            command = " ".join(child.cmdline())
            role = next((role for start, role in ROLES.items() if start in command.split(" ", 1)[0]), None)
            if role:
                family[f"{role} {child.pid}" if role == "actor" else role] = child
    except psutil.Error:
        return
    for name, process in family.items():
        try:
            times = process.cpu_times()
            uss = process.memory_full_info().uss / 2**20
        except psutil.Error:
            continue
        samples[name].append((seconds, uss, times.user + times.system))


def seconds_per_million(manifest: Manifest) -> float:
    """Of all actors at work together: without Ray's start and the loading of models."""
    rates = [rate for name, rate in manifest.measures.items() if name.startswith("replica_rate.")]
    return 1e6 / sum(rates)


def is_flat(samples: Samples) -> bool:
    """Whether no process of llambert or Ray has more at the end than in the second quarter of its life."""
    flat = True
    for name, taken in samples.items():
        memory = [uss for _, uss, _ in taken]
        quarter = len(memory) // 4
        if name == "S3 server" or quarter < 5:  # the store's own, held by GOMEMLIMIT; a process of seconds
            continue
        before, after = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
        if after > max(before * MAX_GROWTH, before + SLACK_MIB):
            print(f"{name} grew from {before:.0f} to {after:.0f} MiB")
            flat = False
    return flat


def plot(runs: list[Samples], sizes: list[int], path: Path) -> None:
    figure, axes = plt.subplots(1, len(runs), figsize=(12, 4), sharey=True, layout="constrained")
    for axis, samples, size in zip(axes, runs, sizes, strict=True):
        for name, taken in samples.items():
            axis.plot([t for t, _, _ in taken], [uss for _, uss, _ in taken], label=name)
        axis.set(title=f"{size:,} records", xlabel="seconds")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("memory of its own (MiB)")
    axes[0].set_ylim(bottom=0)
    figure.savefig(path, dpi=100)


def print_on_paper(run: Run, manifest: Manifest) -> None:
    """What 100 million records in parts of 50,000 come to, by what a part of this run comes to."""
    num_parts = -(-PAPER_RECORDS // PAPER_ROWS_PER_PART)
    requests = requests_of_a_part(run)
    parts = [part.model_copy(update={"name": f"part-00000-{n:06d}.parquet"}) for n, part in
             zip(range(num_parts), manifest.parts * (1 + num_parts // len(manifest.parts)), strict=False)]  # fmt: skip
    tracemalloc.start()
    held = [part.model_copy(deep=True) for part in parts]
    driver_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    manifest_bytes = len(manifest.model_copy(update={"parts": held}).model_dump_json(indent=1))
    label_bytes = sum(part.num_bytes for part in manifest.parts) / manifest.num_kept
    listings = -(-num_parts // KEYS_PER_LISTING)
    print(f"\n{PAPER_RECORDS:,} records in parts of {PAPER_ROWS_PER_PART:,}, on paper")
    part_mib = label_bytes * PAPER_ROWS_PER_PART / 2**20
    print(f"  parts                    {num_parts:,} of labels, each {part_mib:.2f} MiB ({label_bytes:.1f} bytes a "
          f"record), as many of rejects")  # fmt: skip
    print(f"  objects written          {2 * num_parts + 4:,}")
    print(f"  requests                 {sum(requests.values()) * num_parts:,} ({dict(requests)} a part)")
    print(f"  listing calls            {2 * listings} of {KEYS_PER_LISTING:,} keys at a start and at the end; "
          f"beside those in the requests")  # fmt: skip
    print(f"  a restart reads          {num_parts:,} parts at most, {label_bytes * PAPER_RECORDS / 2**30:.2f} GiB")
    print(f"  manifest                 {manifest_bytes / 2**20:.2f} MiB")
    print(f"  driver, parts' records   {driver_bytes / 2**20:.1f} MiB beyond what it is in the run above")


def requests_of_a_part(run: Run) -> Counter[str]:
    """S3 calls for one part, by name, of an actor that has its model."""
    worker = LabelPart(run)
    names = [part.name for part in run.table("corpus").require_manifest().parts[:2]]
    labels, rejects = run.table("labels"), run.table("label_rejects")
    calls: Counter[str] = Counter()
    for number, name in enumerate(names):
        for table in (labels, rejects):
            table.filesystem.rm(table.path(name))
        if number == 1:  # the first one opens connections
            labels.filesystem.s3.meta.events.register(
                "before-send.s3", lambda request, event_name, **_: calls.update([event_name.rpartition(".")[2]])
            )
        worker({"name": name, "num_rows": run.table("corpus").require_manifest().parts[number].num_rows})
    return calls


if __name__ == "__main__":
    sys.exit(main())
