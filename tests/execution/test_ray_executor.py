import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llambert.errors import Damaged, InputError
from llambert.execution import Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.storage.manifest import Part

pytestmark = pytest.mark.slow


class Worker:
    """Notes every attempt as a file, and does what its unit says."""

    def __init__(self, folder, fault=None):
        if fault == "model":
            raise InputError("model x: not there")
        self.folder = Path(folder)

    def __call__(self, unit):
        attempt = len(list(self.folder.glob(f"{unit['n']}-*")))
        (self.folder / f"{unit['n']}-{attempt}").touch()
        match unit.get("fault"):
            case "killed once" if attempt == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed always":
                os.kill(os.getpid(), signal.SIGKILL)
            case "refused":
                raise Damaged(f"unit {unit['n']}", "it is missing", "repair it")
        return Outcome([Part(name=str(unit["n"]), num_rows=unit["n"], num_bytes=0, sha256="")], 0.25, {"tokens": 3.0})


class Meeting:
    """Each unit waits until as many are being done at once."""

    def __init__(self, num_at_once, timeout_s=30.0):
        self.barrier = threading.Barrier(num_at_once, timeout=timeout_s)

    def __call__(self, unit):
        self.barrier.wait()
        return Outcome([Part(name=str(unit["n"]), num_rows=0, num_bytes=0, sha256="")])


def test_every_unit_comes_back_with_its_outcome(tmp_path):
    outcomes = list(RAY.run("count", Worker, (str(tmp_path),), [{"n": n} for n in range(5)], Pool()))
    assert sorted(outcome.parts[0].num_rows for outcome in outcomes) == list(range(5))
    assert outcomes[0].busy_seconds == 0.25
    assert outcomes[0].measures == {"tokens": 3.0}
    assert list(RAY.run("nothing", Worker, (str(tmp_path),), [], Pool())) == []


def test_a_worker_killed_in_a_unit_is_restarted_and_loses_none(tmp_path):
    units = [{"n": 0}, {"n": 1, "fault": "killed once"}, {"n": 2}]
    outcomes = list(RAY.run("killed", Worker, (str(tmp_path),), units, Pool()))
    assert sorted(outcome.parts[0].num_rows for outcome in outcomes) == [0, 1, 2]
    assert (tmp_path / "1-1").exists()


def test_a_unit_that_kills_every_process_is_given_up_after_max_attempts(tmp_path):
    units = [{"n": 0}, {"n": 1, "fault": "killed always"}]
    with pytest.raises(Exception, match=r'worked on {"n": 1, .* was lost 2 times'):
        list(RAY.run("killed", Worker, (str(tmp_path),), units, Pool(max_attempts=2)))
    assert len(list(tmp_path.glob("1-*"))) == 2


def test_what_the_user_must_mend_comes_out_as_one_line_and_stops_the_stage(tmp_path):
    with pytest.raises(Damaged, match=r"^unit 1 is damaged: it is missing; repair it$") as damaged:
        list(RAY.run("bad unit", Worker, (str(tmp_path),), [{"n": 0}, {"n": 1, "fault": "refused"}], Pool()))
    assert damaged.value.fault == "unit 1 is damaged: it is missing"
    with pytest.raises(InputError, match=r"^model x: not there$"):
        list(RAY.run("bad model", Worker, (str(tmp_path), "model"), [{"n": 0}], Pool()))


def test_a_replica_has_as_many_units_in_flight_as_the_pool_says():
    units, pool = [{"n": n} for n in range(6)], Pool(units_in_flight=2)
    outcomes = list(RAY.run("meeting", Meeting, (2,), units, pool))
    assert sorted(outcome.parts[0].name for outcome in outcomes) == [str(n) for n in range(6)]


def test_without_units_in_flight_a_replica_does_one_unit_at_a_time():
    with pytest.raises(Exception, match="BrokenBarrierError"):
        list(RAY.run("alone", Meeting, (2, 1.0), [{"n": 0}, {"n": 1}], Pool(max_attempts=1)))


def test_a_process_whose_earlier_cluster_had_another_token_starts_one_of_its_own(tmp_path):
    script = """
import ray
from llambert.execution.ray_executor import connect
ray.init(address="local", num_cpus=1, include_dashboard=False)
ray.shutdown()
connect()
print(ray.get(ray.remote(lambda: "works").remote()))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["works"], ran.stderr


def test_a_local_cluster_asks_every_stranger_for_its_own_token(tmp_path):
    script = """
import os, subprocess, sys
import ray
from llambert.execution.ray_executor import connect
connect()
address = ray.get_runtime_context().gcs_address
write = "import sys; from ray._raylet import GcsClient; store = GcsClient(address=sys.argv[1])"
write += "; store.internal_kv_put(b'k', b'v', True, b'n', timeout=5)"
stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
for more in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
    print(subprocess.run([sys.executable, "-c", write, address], env=stranger | more, capture_output=True).returncode)
own = {"RAY_AUTH_MODE": "token"}
print(subprocess.run([sys.executable, "-c", write, address], env=os.environ | own, capture_output=True).returncode)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["1", "1", "0"], ran.stderr
    assert list(tmp_path.iterdir()) == []  # Ray would keep its own token in the home folder, for every user to read
