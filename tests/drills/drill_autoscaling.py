"""Nodes come for the stage that needs them and leave after it: Ray's autoscaler over pretended nodes.

    python -m tests.drills.drill_autoscaling

The head has one CPU and no node at first. A replica of four GPUs must bring one whole ``annotator`` node and nothing
else, and the label stage, bound to ``encoder`` nodes by ``label.node_resource``, one of those; both leave when they are
idle. Prints when nodes came and went; exit status 1 if it was otherwise. Nodes are processes, their GPUs numbers.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import psutil
import ray
from ray.util import placement_group_table

from llambert.execution import Outcome, Pool
from llambert.execution.ray_executor import RAY
from llambert.stages.label import label
from tests.fixtures.label_runs import filled_run

IDLE_MINUTES = 0.1
HEAD = "ray.head.default"  # what the pretended cloud says of its head
NODE_TYPES = {
    HEAD: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
    "annotator": {"resources": {"CPU": 1, "GPU": 4, "annotator": 1}, "node_config": {}, "max_workers": 2},
    "encoder": {"resources": {"CPU": 1, "GPU": 1, "encoder": 1}, "node_config": {}, "max_workers": 2},
}
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # what was started is ended too
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        return drill(Path(folder))


def drill(folder: Path) -> int:
    head = start_head(folder)
    try:
        ray.init(address=(folder / "address").read_text(), log_to_driver=False)
        with NodeWatch() as watch:
            gang = list(RAY.run("annotate", PlacedReplica, (), [{"n": 0}], Pool(1, 1, 0.5, 4, 3, "annotator")))
            during_annotate = watch.peak_nodes()
            watch.wait_until_gone()
            run = filled_run(folder / "run", 60, node_resource="encoder", cpus_per_actor=0.5)
            watch.reset_peak()
            manifest = label(run)
            during_label = watch.peak_nodes()
            watch.wait_until_gone()
        faults = []
        if gang[0].measures["num_nodes"] != 1 or gang[0].measures["num_gpus"] != 4:
            faults.append(f"the replica's group is {gang[0].measures}")
        if during_annotate != {"annotator": 1}:
            faults.append(f"annotate brought {dict(during_annotate)}")
        if during_label != {"encoder": 1} or manifest.num_kept != 60:
            faults.append(f"label brought {dict(during_label)} and labelled {manifest.num_kept} of 60")
        print("\n".join(faults) or "one whole four-GPU node for the gang, one encoder node for label, none left after")
        return 1 if faults else 0
    finally:
        ray.shutdown()
        end(head)


class PlacedReplica:
    """A replica that says what its placement group holds."""

    def __call__(self, unit: dict) -> Outcome:
        table = placement_group_table(ray.util.get_current_placement_group())
        gpus = sum(bundle.get("GPU", 0) for bundle in table["bundles"].values())
        nodes = set(table["bundles_to_node_id"].values())
        return Outcome([], 0.0, {"num_gpus": gpus, "num_nodes": len(nodes)})


class NodeWatch:
    """Counts the nodes of each kind, twice a second, and prints changes."""

    def __enter__(self) -> "NodeWatch":
        self.began, self.now, self.peak = time.monotonic(), Counter(), Counter()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.5):
            alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            now = Counter(kind for kind in ("annotator", "encoder") for resources in alive if kind in resources)
            if now != self.now:
                print(f"{time.monotonic() - self.began:6.1f} s: {dict(now) or 'the head alone'}", flush=True)
            self.now, self.peak = now, self.peak | now

    def peak_nodes(self) -> dict[str, int]:
        """The largest number of nodes of each kind at once."""
        time.sleep(1)
        return dict(self.peak)

    def reset_peak(self) -> None:
        self.peak = Counter()

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 60
        while self.now:
            assert time.monotonic() < deadline, f"{dict(self.now)} did not leave"
            time.sleep(0.5)


def start_head(folder: Path) -> psutil.Popen:
    """A head with the autoscaler; the nodes that it brings are its descendants."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    config = {
        "cluster_name": "drill",
        "max_workers": 4,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "available_node_types": NODE_TYPES,
        "head_node_type": HEAD,
        **{f"{name}_commands": [] for name in COMMANDS},
    }
    (folder / "autoscaler.json").write_text(json.dumps(config))
    os.environ["RAY_TMPDIR"] = str(folder)
    environment = {**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--num-cpus=1"]
    options = [
        "--block",
        "--include-dashboard=false",
        "--dashboard-agent-listen-port=0",
        "--object-store-memory=80000000",
    ]
    head = psutil.Popen(
        [*command, *options, f"--autoscaling-config={folder / 'autoscaler.json'}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    current, deadline = folder / "ray" / "ray_current_cluster", time.monotonic() + 60
    while not current.exists() or not current.read_text():
        if head.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the head did not start")
        time.sleep(0.2)
    (folder / "address").write_text(current.read_text().strip())
    return head


def end(head: psutil.Popen) -> None:
    """The head, and every process that came from it."""
    family = [*head.children(recursive=True), head]
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


if __name__ == "__main__":
    sys.exit(main())
