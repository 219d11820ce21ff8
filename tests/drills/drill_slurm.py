"""cluster/slurm.sh under a real Slurm of two nodes on this machine: cancelled, stopped, requeued, finished.

    python -m tests.drills.drill_slurm

Needs Slurm (Debian: slurm-wlm, munge) built with --enable-multiple-slurmd; does nothing, and says so, without it. Each
node has two CPUs, to which Slurm binds what it starts, and GPUs that are only numbers: two on the first, one on the
second. A job with `--gpus=3` must see them so, and stay cancelled when it is. A job without GPUs then resumes its run:
its batch script gets SIGTERM as before the time limit, must requeue itself and finish. In both, Ray must have two nodes
with the CPUs and GPUs of Slurm and refuse who has no token; in the end `llambert verify` must find nothing wrong.
Exit status 1 if anything is not as it should be. Most of its minutes are Ray's three starts.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from llambert.integrity.verify import verify
from llambert.run import open_run
from tests.drills.drill_cluster import write_recipe
from tests.drills.drill_pipeline import GROWS
from tests.drills.nodes import ROOT

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin"
ASK = """
import json, ray, time
ray.init(log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 60  # the driver begins on the first node, whoever joins later
while sum(node["Alive"] for node in ray.nodes()) < 2 and time.monotonic() < deadline:
    time.sleep(0.5)
print(json.dumps([node["Resources"] for node in ray.nodes() if node["Alive"]]))
"""
CONFIGURATION = """
ClusterName=drill
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
FirstJobId={first_job}
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/affinity
TaskPluginParam=Cores
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[0]} CPUs=2 Gres=gpu:2
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:1
PartitionName=drill Nodes=node1,node2 Default=YES State=UP
"""
# Slurm wants a file for each GPU, and looks into none.
GPUS = "NodeName=node1 Name=gpu File=/dev/zero,/dev/null\nNodeName=node2 Name=gpu File=/dev/zero\n"


class Slurm:
    """A controller and two nodes, in the foreground below this process, with ports and folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        folder.chmod(0o711)  # munge refuses a socket that others cannot reach
        ports = _free_ports(3)
        user = psutil.Process().username()
        # Ray's ports and folder follow the job's number: two drills at a time do not meet.
        first = random.randrange(1, 60_000)
        text = CONFIGURATION.format(
            folder=folder, user=user, controller_port=ports[0], ports=ports[1:], first_job=first
        )
        (folder / "slurm.conf").write_text(text)
        (folder / "gres.conf").write_text(GPUS)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen] = []
        self.jobs: list[str] = []

    def start(self) -> None:
        """Until both nodes are idle."""
        places = {"socket": "munge", "key-file": "key", "log-file": "munge.log", "pid-file": "p", "seed-file": "s"}
        self._start("munged", "--force", "--foreground", *(f"--{a}={self.folder / b}" for a, b in places.items()))
        while not (self.folder / "munge").exists():
            time.sleep(0.05)
        self._start("slurmctld", "-D")
        for node in ("node1", "node2"):
            (self.folder / node).mkdir()
            self._start("slurmd", "-D", "-N", node)
        deadline = time.monotonic() + 30
        while self.ask("sinfo", "--noheader", "-o", "%D %t", check=False).strip() != "2 idle":
            if time.monotonic() > deadline:
                raise RuntimeError(f"Slurm does not start: {(self.folder / 'slurmctld.out').read_text()[-2000:]}")
            time.sleep(0.2)

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}.out").open("ab")
        self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def ask(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        result = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True)
        if check and result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
        return result.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says, as far as it has no spaces."""
        words = self.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def shutdown(self) -> None:
        """End the jobs, then the daemons."""
        self.ask("scancel", "--user", psutil.Process().username(), check=False)
        deadline = time.monotonic() + 60
        while self.ask("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:  # slurmd waits for what it started
                daemon.kill()
        for number in self.jobs:
            shutil.rmtree(f"/tmp/ray-{number}", ignore_errors=True)


class Job:
    """One submission of cluster/slurm.sh, and what it writes."""

    def __init__(self, slurm: Slurm, *options: str, recipe: Path, storage: Path) -> None:
        self.slurm, self.storage = slurm, storage
        self.log = slurm.folder / f"job{len(slurm.jobs)}.out"
        settings = ["--set", f"storage={storage}"]
        printed = slurm.ask(
            *("sbatch", "--parsable", f"--output={self.log}", "--cpus-per-task=2", "--time=10"),
            *(*options, "cluster/slurm.sh", str(recipe), *settings),
        )
        self.number = printed.strip()
        slurm.jobs.append(self.number)

    def wait_for(self, stage: str) -> None:
        """Until the stage has something committed."""
        self.until(lambda job: list(self.storage.glob(f"{GROWS[stage]}/*/part-*.parquet")), f"{stage} to begin")

    def until(self, holds, what: str, timeout_s: float = 300) -> None:
        """Until ``holds`` of what Slurm says of the job is true."""
        deadline = time.monotonic() + timeout_s
        while not holds(job := self.slurm.job(self.number)):
            ended = job["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL")
            if ended or time.monotonic() > deadline:
                text = self.log.read_text()[-3000:] if self.log.exists() else ""
                raise RuntimeError(f"waited for {what}, and job {self.number} is {job['JobState']}:\n{text}")
            time.sleep(0.2)

    def drivers(self) -> list[psutil.Process]:
        """The process of the pipeline, if it runs."""
        named = (one for one in psutil.process_iter(["cmdline"]) if "jobs/pipeline.py" in (one.info["cmdline"] or []))
        return [process for process in named if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("SLURM_JOB_ID") == self.number and str(ROOT) == process.cwd()
        except psutil.Error:
            return False

    def problems(self, gpus: list[int]) -> list[str]:
        """What is wrong with its Ray: two nodes, of two CPUs each that they may use, and ``gpus``; a token."""
        drivers = self.drivers()
        if not drivers:
            raise RuntimeError(f"job {self.number} has no driver:\n{self.log.read_text()[-3000:]}")
        environment = drivers[0].environ()
        asked = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True)
        if asked.returncode:
            return [f"its Ray does not answer: {asked.stderr[-2000:]}"]
        nodes = sorted(json.loads(asked.stdout), key=lambda node: -node.get("GPU", 0))
        found = [(node["CPU"], node.get("GPU", 0)) for node in nodes]
        wrong = [] if found == [(2, number) for number in gpus] else [f"CPUs and GPUs of its nodes: {found}"]
        raylets = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "raylet" and self._job_of(one)]
        may_use = [len(one.cpu_affinity()) for one in raylets]
        wrong += [] if may_use == [2, 2] else [f"CPUs that its nodes may use: {may_use}"]
        stranger = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN"}
        stranger["HOME"] = str(self.slurm.folder)  # Ray looks for a token there too
        answer = subprocess.run([sys.executable, "-c", ASK], env=stranger, capture_output=True, text=True, timeout=60)
        return wrong + ([] if answer.returncode else ["its Ray answers who has no token"])

    def _job_of(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("SLURM_JOB_ID") == self.number
        except psutil.Error:
            return False


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # what was started is ended too
    os.environ["PATH"] += f":{SYSTEM_FOLDERS}"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"skipped: {', '.join(missing)} not found (Debian: apt-get install slurm-wlm munge)")
        return 0
    # The environment that this drill runs in, as an activated one; code from this checkout.
    os.environ |= {"VENV": str(Path(sys.executable).parents[1]), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        slurm = Slurm(Path(folder) / "slurm")
        recipe = write_recipe(Path(folder))
        try:
            slurm.start()
            return drill(slurm, recipe, Path(folder) / "run")
        finally:
            slurm.shutdown()


def drill(slurm: Slurm, recipe: Path, storage: Path) -> int:
    """See the module; ``storage``: a folder that does not exist yet."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s: {text}", flush=True)

    cancelled = Job(slurm, "--gpus=3", "--gpus-per-node=0", recipe=recipe, storage=storage)
    cancelled.wait_for("annotate")
    problems = cancelled.problems(gpus=[2, 1])
    say("annotate began on a cluster with 3 GPUs; cancelled")
    slurm.ask("scancel", cancelled.number)
    cancelled.until(lambda job: job["JobState"] not in ("RUNNING", "COMPLETING"), "the end")
    time.sleep(3)
    if (state := slurm.job(cancelled.number)["JobState"]) != "CANCELLED":
        problems.append(f"a cancelled job is {state}")

    resumed = Job(slurm, "--gpus-per-node=0", recipe=recipe, storage=storage)
    resumed.until(lambda _: resumed.drivers(), "the driver")
    problems += resumed.problems(gpus=[0, 0])
    resumed.wait_for("label")  # which takes seconds
    slurm.ask("scancel", "--signal=TERM", "--batch", resumed.number)
    resumed.until(lambda job: job["Restarts"] == "1", "the requeue", timeout_s=60)
    say("label began on a cluster without GPUs; stopped, and requeued by its script")
    resumed.until(lambda job: job["JobState"] == "COMPLETED", "the end")
    say("finished")

    problems += [str(finding) for finding in verify(open_run(str(recipe), [f"storage={storage}"]))]
    for problem in problems:
        print(problem)
    print(f"two jobs, one of them twice: verify finds {'nothing' if not problems else 'something'} wrong")
    return 1 if problems else 0


def _free_ports(num: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
