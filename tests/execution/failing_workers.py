"""Workers that fail as their arguments and units say; each attempt is a file, with the process that made it."""

import errno
import os
import signal
from pathlib import Path

import torch

from llambert.errors import InputError
from llambert.execution import Outcome
from llambert.storage.manifest import Part

FAULTS = {
    "key": lambda: KeyError("no such column"),
    "input": lambda: InputError("model x: not there"),
    "memory": lambda: torch.OutOfMemoryError(f"CUDA out of memory. Process {os.getpid()} holds 70.1 GiB"),
    "assert": lambda: torch.AcceleratorError("CUDA error: device-side assert triggered"),
    "ecc": lambda: torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    "no device": lambda: RuntimeError("No CUDA GPUs are available"),
    "nccl": lambda: torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:94"),
    "disk": lambda: OSError(errno.EIO, "Input/output error"),
    "reset": lambda: ConnectionResetError("Connection reset by peer"),
}


def fail(folder, name, fault):
    """Note an attempt at ``name`` and raise ``fault``: ``<kind> once``, ``<kind> always``, or none."""
    attempt = len(list(Path(folder).glob(f"{name}-*")))
    Path(folder, f"{name}-{attempt}").write_text(str(os.getpid()))
    kind, _, how_often = (fault or "").rpartition(" ")
    if not kind or (how_often == "once" and attempt > 0):
        return
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise FAULTS[kind]()


def attempts(folder, name):
    """The processes of the attempts at a unit, or at ``start``."""
    return [path.read_text() for path in sorted(Path(folder).glob(f"{name}-*"))]


class Failing:
    """``start``: what happens while a worker is made; a unit's ``fault``: what does while it is done."""

    def __init__(self, folder, start=""):
        self.folder = folder
        fail(folder, "start", start)

    def __call__(self, unit):
        fail(self.folder, str(unit["n"]), unit.get("fault"))
        return Outcome([Part(name=str(unit["n"]), num_rows=1, num_bytes=0, sha256="")])
