"""Each fault of a schedule, done to a drilled run."""

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
from tests.drills.drilled_run import ENDS, GROWS, TABLES, end_driver
from tests.drills.ground import Ground
from tests.drills.schedule import DAMAGE, Fault
from tests.fixtures.faulty_proxy import Disturbance
from tests.fixtures.processes import kill_group, signal_one

NOTICED_WITHIN_S = 5.0  # a driver that has not noticed the loss of its cluster by then is ended, as by an operator
FOUND_WITHIN_S = 3.0
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


class Drilled:
    """A run under its drill: its driver, and what was done to it so far."""

    def __init__(self, ground: Ground, name: str) -> None:
        self.ground, self.name, self.run = ground, name, ground.open(name)
        self.driver: BaseProcess | None = None
        self.others: list[BaseProcess] = []
        self.is_damaged = False
        self.done: list[str] = []

    @property
    def clock(self) -> Path:
        """The file from which processes with a faked clock read how far it is off."""
        return self.ground.folder / f"clock-{self.name}"

    def is_running(self) -> bool:
        """Whether the driver is there."""
        return self.driver is not None and self.driver.is_alive()

    def has_begun(self, stage: str) -> bool:
        """Whether ``stage`` has stored anything."""
        return _is_there(self.run, GROWS[stage]) or self.has_ended(stage)

    def has_ended(self, stage: str) -> bool:
        """Whether ``stage`` is complete."""
        table = self.run.table(ENDS[stage])
        return table.filesystem.exists(table.path(MANIFEST))

    def inject(self, fault: Fault) -> bool:
        """Do it; False where there is nothing just now to do it to."""
        action = getattr(self, "_" + fault.kind.replace(" ", "_"), None)
        if fault.kind in DISTURBANCES:
            self.ground.proxy.disturbance = DISTURBANCES[fault.kind]
            time.sleep(fault.for_s)
            self.ground.proxy.disturbance = None
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
        deadline = time.monotonic() + FOUND_WITHIN_S
        kind = "train worker" if stage == "finetune" else "actor"
        while not (found := self.ground.nodes.of_kind(kind)) and self.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def _kill_actor(self, fault: Fault) -> bool:
        return signal_one(self._actors(fault.stage), _chance(fault)) is not None

    def _stop_actor(self, fault: Fault) -> bool:
        victim = signal_one(self._actors(fault.stage), _chance(fault), signal.SIGSTOP)
        time.sleep(fault.for_s if victim else 0)
        return victim is not None and signal_one([victim], _chance(fault), signal.SIGCONT) is not None

    def _kill_node(self, fault: Fault) -> bool:
        nodes = self.ground.nodes
        busy = [node for node in nodes.workers if nodes.of_kind("actor", [node])]
        self.ground.change_nodes(nodes.kill, _chance(fault).choice(busy or nodes.workers))
        return True

    def _stop_raylet(self, fault: Fault) -> bool:
        nodes = self.ground.nodes
        return _pause(nodes.raylet(_chance(fault).choice(nodes.workers)), fault.for_s)

    def _kill_head(self, _: Fault) -> bool:
        self.ground.restart_cluster()
        assert self.driver is not None
        self.driver.join(NOTICED_WITHIN_S)
        end_driver(self.driver)
        return True

    def _stop_gcs(self, fault: Fault) -> bool:
        return _pause(self.ground.nodes.gcs(), fault.for_s)

    def _kill_s3(self, fault: Fault) -> bool:
        self.ground.server.kill()
        time.sleep(fault.for_s)
        self.ground.server.start()
        return True

    def _stop_s3(self, fault: Fault) -> bool:
        process = self.ground.server.process
        assert process is not None
        return _pause(process.pid, fault.for_s)

    def _two_drivers(self, _: Fault) -> bool:
        self.others.append(self.ground.start_driver(self.name))
        return True

    def _clock_jump(self, fault: Fault) -> bool:
        """Ten minutes on or back, for the driver; it must have been started with a faked clock."""
        self.clock.write_text(f"{_chance(fault).choice('+-')}{CLOCK_STEP_S}s")
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
        chance = _chance(fault)
        table, path = chance.choice(files)
        if fault.kind == "delete part":
            table.filesystem.rm_file(path)
            return True
        content = bytearray(table.filesystem.cat_file(path))
        if fault.kind == "truncate manifest" or chance.random() < 0.5:
            content = content[: chance.randrange(len(content))]
        else:
            content[chance.randrange(len(content))] ^= 0xFF
        table.filesystem.pipe_file(path, bytes(content))
        return True


def _is_there(run: Run, name: str) -> bool:
    table = run.table(name)
    return bool(table.filesystem.find(table.path()))


def _chance(fault: Fault) -> random.Random:
    """What a fault has to choose is chosen by its own words, so that a replay chooses alike."""
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
