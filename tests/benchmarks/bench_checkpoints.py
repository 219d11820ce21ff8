"""Fine-tuning with checkpoints on slow S3 against a local disk, and the rule of before: synchronous, every N steps.

    python -m tests.benchmarks.bench_checkpoints [--rounds 3] [--epochs 60]
    python -m tests.benchmarks.bench_checkpoints --state-gigabytes 4.3

A small encoder whose state takes several times the steps between two checkpoints of the old rule to upload, as
roberta-large's with Adam (4.3 GB) does after 100 steps on an A100: SeaweedFS behind a relay of limited bandwidth and
latency. Server and relay, which would be elsewhere, have the last core for themselves and the threads that upload; the
steps have one thread. The sides of a round take their steps one after the other, each in a process of its own, the disk
first in every other round. The seconds are those of the steps, from the first look at the losses to the last. Exit
status 1 if steps on S3 take more than 1.05 times those on the disk. About five minutes on an idle machine of two cores.

``--state-gigabytes``: what storing a state of that size costs on this machine's disk, and nothing else: the copy in
host memory, for which training waits, and ``torch.save``, for which it does not.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fsspec
import pytest
import torch
from transformers import BertConfig, BertModel

from llambert.classifier.chip import chip_name
from llambert.execution.in_process import InProcessExecutor
from llambert.execution.training_states import STATE, TrainingStates
from llambert.stages.finetune import finetune
from llambert.storage.run_directory import TableDirectory
from tests.fixtures.s3_server import running_server
from tests.fixtures.slow_link import slow_link
from tests.fixtures.tiny_encoder import save_tiny_encoder
from tests.fixtures.training_runs import make_run

CEILING = 1.05
LATENCY_S = 0.1
CHECKPOINT_EVERY_S = 3.0


def with_one_thread(cores: set[int]) -> None:
    """In the process of a side: steps on one thread, on any of ``cores``."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


class Counting(InProcessExecutor):
    """The in-process executor; counts what is stored, the seconds of the steps and those that training waits."""

    def __init__(self) -> None:
        self.num_stored, self.waited_s, self.began, self.ended = 0, 0.0, 0.0, 0.0

    def train(self, run, function, on_progress):
        # Progress goes to the driver, on a cluster another process, which writes it to the storage at its leisure.
        return super().train(run, lambda run, context: function(run, self.counted(context)), lambda _: None)

    def counted(self, context):
        save = self.saving(context)

        def counted(state: Callable[[], dict[str, Any]]) -> bool:
            self.began = self.began or time.perf_counter()
            began = time.perf_counter()
            is_begun = save(state)
            self.ended = time.perf_counter()
            self.waited_s += self.ended - began
            self.num_stored += is_begun
            return is_begun

        context.save_state = counted
        return context

    def saving(self, context) -> Callable[[Callable[[], dict[str, Any]]], bool]:
        return context.save_state


class Synchronous(Counting):
    """The rule of before: training waits for a checkpoint after every so many steps, here each look at the losses."""

    def train(self, run, function, on_progress):
        self.table = run.table("training")
        return super().train(run, function, on_progress)

    def saving(self, context):
        def save(state: Callable[[], dict[str, Any]]) -> bool:
            torch.save(state(), content := io.BytesIO())
            self.table.write_file("synchronous.pt", content.getvalue())
            return True

        return save


def save_encoder(folder: Path) -> str:
    """4 million weights, nearly all of them embeddings: a large state, quick steps."""
    save_tiny_encoder(folder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    BertModel(BertConfig(vocab_size=30_000, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return str(folder)


def trained(side: str, folder: Path, encoder: str, storage: str, epochs: int) -> tuple[float, int, float]:
    """Train, in a process of its own; the seconds of the steps, the checkpoints, the seconds waited for these."""
    executor = {"by time": Counting, "synchronous": Synchronous}[side]()
    fields = {"epochs": epochs, "checkpoint_every_s": CHECKPOINT_EVERY_S, "regime": "silver_extra"}
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        finetune(make_run(folder, encoder, storage, **fields), executor)
    return executor.ended - executor.began, executor.num_stored, executor.waited_s


def measure_state(gigabytes: float, folder: Path) -> None:
    """The seconds of storing one state of this size, twice."""
    num = int(gigabytes * 1e9 / 4 / 3 / 390)  # weights and Adam's two moments of roberta-large's 390-odd tensors
    tensors = {kind: [torch.randn(num) for _ in range(390)] for kind in ("model", "exp_avg", "exp_avg_sq")}
    table = TableDirectory(str(folder / "training"))
    for _ in range(2):
        try:
            with TrainingStates(table, 0.0) as states:
                began = time.perf_counter()
                states.save(lambda: tensors)
                copied = time.perf_counter() - began
                raise ArithmeticError  # finishes the upload
        except ArithmeticError:
            stored = time.perf_counter() - began
        size = os.path.getsize(table.path(STATE))
        print(f"state of {size / 1e9:.2f} GB: copy {copied:.2f} s, then torch.save and fsync {stored - copied:.2f} s")


def main() -> int:
    """Print each side, the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--megabytes-per-s", type=float, default=10.0, help="of S3; more keep the server's core busy")
    parser.add_argument("--state-gigabytes", type=float)
    arguments = parser.parse_args()
    if arguments.state_gigabytes:
        with tempfile.TemporaryDirectory(prefix="llambert-bench-checkpoints-") as name:
            measure_state(arguments.state_gigabytes, Path(name))
        return 0
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})  # and so the server, which is started next
    print(f"{chip_name(torch.device('cpu'))}; {arguments.megabytes_per_s:.0f} MB/s, {LATENCY_S * 1e3:.0f} ms a request")
    with (
        tempfile.TemporaryDirectory(prefix="llambert-bench-checkpoints-") as name,
        running_server(Path(name) / "s3") as server,
        slow_link(server.endpoint, arguments.megabytes_per_s * 1e6, LATENCY_S) as endpoint,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        fsspec.filesystem("s3").clear_instance_cache()
        folder, ratios = Path(name), {}
        encoder = save_encoder(folder / "encoder")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, with_one_thread, (cores,)) as pool:
            for number, side in enumerate(["by time"] * arguments.rounds + ["synchronous"]):
                places = {"disk": str(folder / f"run-{number}"), "S3": f"s3://llambert-test/run-{number}"}
                found = {}
                for place in sorted(places, reverse=number % 2 == 0):
                    own = (side, folder / f"{place}-{number}", encoder, places[place], arguments.epochs)
                    found[place] = seconds, num_stored, waited = pool.submit(trained, *own).result()
                    print(
                        f"{side:12} {place:4} {seconds:7.2f} s, {num_stored:3} checkpoints, training waited "
                        f"{waited:6.2f} s for them",
                        flush=True,
                    )
                ratios.setdefault(side, []).append(found["S3"][0] / found["disk"][0])
        ratio = statistics.median(ratios["by time"])
        print(f"by time: S3 / disk        {ratio:.3f} (median of {arguments.rounds}; at most {CEILING})")
        print(f"synchronous: S3 / disk    {ratios['synchronous'][0]:.2f}")
    return int(ratio > CEILING)


if __name__ == "__main__":
    sys.exit(main())
