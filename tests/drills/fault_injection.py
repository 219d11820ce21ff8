"""The faults of a schedule, injected into a run."""

import importlib.util
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from llambert.run import Run
from llambert.storage.manifest import MANIFEST
from llambert.storage.part_file import is_part
from tests.drills.drill_pipeline import ENDS, GROWS, TABLES, end_driver
from tests.drills.schedule import DAMAGE, Fault
from tests.drills.testbed import Testbed
from tests.fixtures.faulty_proxy import Disturbance
from tests.fixtures.processes import kill_group, signal_one

NOTICE_TIMEOUT_S = 5.0  # a driver that has not noticed the loss of its cluster by then is ended, as by an operator
FIND_TIMEOUT_S = 3.0
CLOCK_STEP_S = 600  # S3 refuses requests signed 15 minutes off
DISTURBANCES = {
    "slow network": Disturbance("slow", delay_s=0.1),
    "broken connections": Disturbance("reset", share=0.3),
    "busy store": Disturbance("busy", share=0.5),
    "full disk": Disturbance("full"),
}


def faked_time() -> Path | None:
    """libfaketime's shared object, of the PyPI package of that name; None where it is not installed."""
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.rglob("libfaketime.so*"), None)


class DrillRun:
    """A run during a drill: its drivers, and the faults injected so far."""

    def __init__(self, testbed: Testbed, name: str) -> None:
        self.testbed, self.name, self.run = testbed, name, testbed.open(name)
        self.driver: BaseProcess | None = None
        self.others: list[BaseProcess] = []
        self.is_damaged = False
        self.done: list[str] = []

    @property
    def clock(self) -> Path:
        """The file from which processes with a faked clock read how far it is off."""
        return self.testbed.folder / f"clock-{self.name}"

    def is_running(self) -> bool:
        """Whether the driver is alive."""
        return self.driver is not None and self.driver.is_alive()

    def has_begun(self, stage: str) -> bool:
        """Whether ``stage`` has stored anything."""
        return _has_files(self.run, GROWS[stage]) or self.has_ended(stage)

    def has_ended(self, stage: str) -> bool:
        """Whether ``stage`` is complete."""
        table = self.run.table(ENDS[stage])
        return table.filesystem.exists(table.path(MANIFEST))

    def inject(self, fault: Fault) -> bool:
        """Inject the fault; False if there is no process or file for it now."""
        action = getattr(self, "_" + fault.kind.replace(" ", "_"), None)
        if fault.kind in DISTURBANCES:
            self.testbed.proxy.disturbance = DISTURBANCES[fault.kind]
            time.sleep(fault.for_s)
            self.testbed.proxy.disturbance = None
            was_done = True
        elif fault.kind in DAMAGE:
            was_done = self._damage(fault)
            self.is_damaged |= was_done
        else:
            assert action is not None, fault.kind
            was_done = action(fault)
        if was_done:
            self.done.append(fault.kind)
        return was_done

    # Processes

    def _kill_driver(self, _: Fault) -> bool:
        assert self.driver is not None
        assert self.driver.pid is not None
        kill_group(self.driver.pid)
        return True

    def _stop_driver(self, fault: Fault) -> bool:
        assert self.driver is not None
        assert self.driver.pid is not None
        return _pause(self.driver.pid, fault.for_s)

    def _actors(self, stage: str) -> list:
        """The workers of ``stage``, waited for a little."""
        deadline = time.monotonic() + FIND_TIMEOUT_S
        kind = "train worker" if stage == "finetune" else "actor"
        while not (found := self.testbed.nodes.of_kind(kind)) and self.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def _kill_actor(self, fault: Fault) -> bool:
        return signal_one(self._actors(fault.stage), _rng(fault)) is not None

    def _stop_actor(self, fault: Fault) -> bool:
        victim = signal_one(self._actors(fault.stage), _rng(fault), signal.SIGSTOP)
        time.sleep(fault.for_s if victim else 0)
        return victim is not None and signal_one([victim], _rng(fault), signal.SIGCONT) is not None

    def _kill_node(self, fault: Fault) -> bool:
        nodes = self.testbed.nodes
        busy = [node for node in nodes.workers if nodes.of_kind("actor", [node])]
        self.testbed.change_nodes(nodes.kill, _rng(fault).choice(busy or nodes.workers))
        return True

    def _stop_raylet(self, fault: Fault) -> bool:
        nodes = self.testbed.nodes
        return _pause(nodes.raylet(_rng(fault).choice(nodes.workers)), fault.for_s)

    def _kill_head(self, _: Fault) -> bool:
        self.testbed.restart_cluster()
        assert self.driver is not None
        self.driver.join(NOTICE_TIMEOUT_S)
        end_driver(self.driver)
        return True

    def _stop_gcs(self, fault: Fault) -> bool:
        return _pause(self.testbed.nodes.gcs(), fault.for_s)

    def _kill_s3(self, fault: Fault) -> bool:
        self.testbed.server.kill()
        time.sleep(fault.for_s)
        self.testbed.server.start()
        return True

    def _stop_s3(self, fault: Fault) -> bool:
        process = self.testbed.server.process
        assert process is not None
        return _pause(process.pid, fault.for_s)

    def _two_drivers(self, _: Fault) -> bool:
        self.others.append(self.testbed.start_driver(self.name))
        return True

    def _clock_jump(self, fault: Fault) -> bool:
        """Ten minutes on or back, for the driver; it must have been started with a faked clock."""
        self.clock.write_text(f"{_rng(fault).choice('+-')}{CLOCK_STEP_S}s")
        return True

    # Files

    def _damage(self, fault: Fault) -> bool:
        """Damage one stored file, of any table that is there; False if there is none yet."""
        wanted = (lambda name: name.endswith(MANIFEST)) if fault.kind == "truncate manifest" else is_part
        files = []
        for name in (*TABLES, "checkpoint"):
            table = self.run.table(name)
            files += [(table, str(path)) for path in table.filesystem.find(table.path()) if wanted(str(path))]
        if not files:
            return False
        rng = _rng(fault)
        table, path = rng.choice(files)
        if fault.kind == "delete part":
            table.filesystem.rm_file(path)
            return True
        content = bytearray(table.filesystem.cat_file(path))
        if fault.kind == "truncate manifest" or rng.random() < 0.5:
            content = content[: rng.randrange(len(content))]
        else:
            content[rng.randrange(len(content))] ^= 0xFF
        table.filesystem.pipe_file(path, bytes(content))
        return True


def _has_files(run: Run, name: str) -> bool:
    table = run.table(name)
    return bool(table.filesystem.find(table.path()))


def _rng(fault: Fault) -> random.Random:
    """Random choices of a fault, seeded by its text, so that a replay makes the same ones."""
    return random.Random(str(fault))


def _pause(pid: int, seconds: float) -> bool:
    """SIGSTOP, and SIGCONT after a while."""
    try:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True
