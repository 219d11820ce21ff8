"""The sections, each in a process of its own with a time limit, and the table of what they reported."""

import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import transformers

from llambert.errors import described
from llambert.markdown import table
from tests.benchmarks.gpu_check.correctness import check_classifier, check_engine
from tests.benchmarks.gpu_check.models import FULL, QUICK, Sizes
from tests.benchmarks.gpu_check.report import Line, Report
from tests.benchmarks.gpu_check.speed import (
    describe_chip,
    finetune_roberta,
    label_modernbert,
    label_roberta,
    store_checkpoint,
)


@dataclass(frozen=True)
class Section:
    """What is measured, and the seconds after which it is ended; the limits of all sum to less than 8 minutes."""

    title: str
    measure: Callable[[torch.device, Sizes, Report], None]
    limit_s: float


SECTIONS = {
    "chip": Section("chip", describe_chip, 25),
    "classifier": Section("classifier", check_classifier, 60),
    "engine": Section("embedded engine, 135M", check_engine, 70),
    "label-roberta": Section("label, roberta-large", label_roberta, 130),
    "label-modernbert": Section("label, ModernBERT-base", label_modernbert, 90),
    "finetune": Section("fine-tune, roberta-large", finetune_roberta, 50),
    "checkpoint": Section("checkpoint, roberta-large", store_checkpoint, 40),
}


def run_sections(device: str, quick: bool, names: list[str]) -> int:
    """Run them one after another, print the table; 1 if a line failed."""
    started = time.perf_counter()
    lines: list[tuple[str, Line]] = []
    for name in names:
        for line in _lines(SECTIONS[name], device, QUICK if quick else FULL):
            lines.append((SECTIONS[name].title, line))
            print(
                f"{time.perf_counter() - started:6.1f} s  {name}: {line.name}: {line.value}",
                file=sys.stderr,
                flush=True,
            )
        if name == "chip" and lines[-1][1].is_failed:
            break  # everything else would fail by the same cause
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    sizes = ", toy sizes (figures of speed mean nothing)" if quick else ""
    print(f"`make gpu-check`, {time.strftime('%Y-%m-%d')}, {versions}{sizes}; {time.perf_counter() - started:.0f} s.\n")
    rows = [(title, line.name, line.value, line.num, line.note) for title, line in lines]
    print("\n".join(table(["section", "what", "value", "n", "note"], rows, frozenset({1, 2, 3, 4}))))
    return int(any(line.is_failed for _, line in lines))


def _lines(section: Section, device: str, sizes: Sizes) -> Iterator[Line]:
    """The section's lines as they are measured, and one more where it did not end well.

    A process, because a fault of CUDA spoils everything that follows in the same one. It is forked: this process has
    the libraries loaded and has neither computed anything nor touched the GPU.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(section, device, sizes, sending))
    process.start()
    sending.close()
    limit_s = section.limit_s * (3 if sizes is QUICK else 1)  # a CPU that is busy is no fault
    deadline = time.monotonic() + limit_s
    try:
        while receiving.poll(max(0.0, deadline - time.monotonic())):
            line = receiving.recv()
            if line is None:
                return
            yield line
        yield _failure(f"not done after {limit_s:.0f} s")
    except EOFError:
        process.join()
        yield _failure(f"its process ended with exit code {process.exitcode}")
    finally:
        if process.pid is not None:
            _end(process.pid)
        process.join()


def _measure(section: Section, device: str, sizes: Sizes, sending: Connection) -> None:
    os.setpgid(0, 0)  # with the compiler's workers, which end with it
    if sizes is QUICK:
        torch.set_num_threads(1)  # threads that share toy products on a busy machine wait for each other
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        section.measure(torch.device(device), sizes, sending.send)
        sending.send(None)
    except Exception as error:
        sending.send(_failure(described(error)))
        sending.send(None)


def _failure(reason: str) -> Line:
    return Line("FAILED", f"FAILED, {reason}", is_failed=True)


def _end(pid: int) -> None:
    """End a section's process and those it started; it may have ended by itself, or not yet have its group."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
            return
        except ProcessLookupError:
            continue
