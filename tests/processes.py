"""The processes of a run, found by what they are, and ended as a lost machine or an operator ends them."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# How the processes of each kind begin: Ray gives its workers titles.
TITLES = {
    "actor": ("ray::MapWorker",),  # of Ray Data, by which ingest, annotate and label work
    "train worker": ("ray::RayTrainWorker",),
    "train controller": ("ray::TrainController",),
    "worker": ("ray::",),
    "raylet": ("raylet",),
    "GCS": ("gcs_server",),
}


def descendants(pid: int, kind: str, unlike: str = "") -> list[psutil.Process]:
    """Processes of ``kind`` below process ``pid``, without those of the kind ``unlike``; empty if it is gone."""
    found = []
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in below:
        name = title(process)
        if name.startswith(TITLES[kind]) and not (unlike and name.startswith(TITLES[unlike])):
            found.append(process)
    return found


def title(process: psutil.Process) -> str:
    """The program's name without its folder, or what the process calls itself; empty if it is gone."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    return Path(command[0]).name if command else ""


def signal_one(
    found: list[psutil.Process], chance: random.Random, number: int = signal.SIGKILL
) -> psutil.Process | None:
    """Send one of the processes a signal; None if there is none, or it ended by itself just now."""
    if not found:
        return None
    victim = chance.choice(found)
    try:
        victim.send_signal(number)
    except psutil.NoSuchProcess:
        return None
    return victim


def kill_family(pid: int) -> None:
    """SIGKILL a process and everything below it: what the loss of its machine looks like."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=5)


def kill_group(pid: int) -> None:
    """SIGKILL the process group of a driver: a local Ray goes with it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_for_commit(
    driver: subprocess.Popen, num_committed: Callable[[], int], every_s: float = 0.05, within_s: float = 300.0
) -> None:
    """Until something more than there was is committed, or the driver ended; an error after ``within_s``."""
    before, deadline = num_committed(), time.monotonic() + within_s
    while driver.poll() is None and num_committed() == before:
        assert time.monotonic() < deadline, f"nothing was committed in {within_s:g} s"
        time.sleep(every_s)
