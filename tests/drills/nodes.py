"""A Ray cluster on this machine whose worker nodes can be lost: the head has no CPUs, each worker node a few."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.fixtures.cloud_metadata import cloud_metadata
from tests.fixtures.processes import TITLES, descendants, kill_family, title

ROOT = Path(__file__).resolve().parents[2]


class Nodes:
    """A head without CPUs, and worker nodes with the custom resource ``worker``.

    ``warm``: the folder of warm_workers.py, by which workers are forked; None: Ray starts them itself.
    """

    def __init__(
        self, num_cpus: int = 1, num_workers: int = 2, with_dashboard: bool = True, warm: Path | None = None
    ) -> None:
        self.small = {"object_store_memory": 80 << 20}
        # A lost node is declared dead within seconds, not half a minute.
        config = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
        self.head_args = {
            "num_cpus": 0,
            "include_dashboard": with_dashboard,
            "dashboard_port": 0,
            "dashboard_agent_listen_port": 0,  # its usual one may be another cluster's
            "_system_config": config,
            **self.small,
        }
        self.worker_args = {"num_cpus": num_cpus, "resources": {"worker": 1}, **self.small}
        self.num_workers = num_workers
        self.warm = warm
        if warm:
            program = str(Path(__file__).with_name("warm_worker.py"))
            self.head_args["setup_worker_path"] = self.worker_args["setup_worker_path"] = program
        self.start()

    def start(self) -> None:
        """The head, then its worker nodes."""
        ended_by = signal.getsignal(signal.SIGTERM)
        self.cluster = Cluster(initialize_head=True, head_node_args=self.head_args)
        self.workers = [self._add_worker() for _ in range(self.num_workers)]
        self.cluster.wait_for_nodes()
        signal.signal(signal.SIGTERM, ended_by)  # the head's own handler drains its node for half a minute

    def _add_worker(self, **other: Any) -> Any:
        # Each in a folder of its own, as on a machine of its own: a node that joins unpacks a job's files anew, and the
        # workers of the others would lose theirs.
        place = tempfile.mkdtemp(prefix="n", dir=os.environ.get("RAY_TMPDIR"))
        return self.cluster.add_node(temp_dir=place, **{**self.worker_args, **other})

    @property
    def address(self) -> str:
        """What a driver joins by, as RAY_ADDRESS."""
        return self.cluster.address

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://{self.cluster.head_node.webui_url}"

    def raylet(self, node: Any) -> int:
        """The process id of a node's raylet, above all of the node's workers."""
        return node.all_processes["raylet"][0].process.pid

    def gcs(self) -> int:
        """The process id of the head's GCS."""
        return self.cluster.head_node.all_processes["gcs_server"][0].process.pid

    def of_kind(self, kind: str, nodes: Iterable[Any] | None = None) -> list[psutil.Process]:
        """The processes of ``kind`` on ``nodes``, or on all worker nodes."""
        raylets = [self.raylet(node) for node in (self.workers if nodes is None else nodes)]
        found = [process for pid in raylets for process in descendants(pid, kind)]
        return found + [one for pid in raylets for one in self._forked(pid) if title(one).startswith(TITLES[kind])]

    def _forked(self, raylet: int) -> list[psutil.Process]:
        """The workers of a raylet that are not its children."""
        if self.warm is None or not (self.warm / "born").exists():
            return []
        found = []
        for owner, pid, created in map(str.split, (self.warm / "born").read_text().splitlines()):
            if int(owner) != raylet:
                continue
            try:
                process = psutil.Process(int(pid))
                if process.create_time() == float(created):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def process_of(self, beginning: str) -> tuple[Any, psutil.Process] | None:
        """A process whose title begins so, and the worker node it is on."""
        for node in self.workers:
            for process in psutil.Process(self.raylet(node)).children(recursive=True):
                if title(process).startswith(beginning):
                    return node, process
        return None

    def drain(self, node: Any) -> None:
        """A spot notice, and ten seconds of the two minutes it gives."""
        with cloud_metadata() as metadata:
            metadata.notice = True
            places = {"METADATA_URL": metadata.url, "RAY_HEAD_ADDRESS": self.cluster.address, "NODE_ID": node.node_id}
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            script = [ROOT / "cluster" / "drain-on-spot-notice.sh", "aws"]
            subprocess.run(script, env={**os.environ, **places, "PATH": path}, check=True, timeout=60)
        time.sleep(10)

    def kill(self, node: Any, **other: Any) -> None:
        """What a lost machine looks like; another one, with ``other`` parameters if given, comes in its place."""
        self._kill_workers(node)
        kill_family(self.raylet(node))
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers.remove(node)
        self.workers.append(self._add_worker(**other))

    def _kill_workers(self, node: Any) -> None:
        for process in self._forked(self.raylet(node)):
            kill_family(process.pid)

    def lose(self) -> None:
        """Every process of every node at once, the GCS first; nothing comes in their place until ``start``."""
        nodes = [self.cluster.head_node, *self.workers]
        for node in nodes:
            self._kill_workers(node)
        pids = [info.process.pid for node in nodes for infos in node.all_processes.values() for info in infos]
        for pid in [self.gcs(), *pids]:
            kill_family(pid)
        for node in [*self.workers, self.cluster.head_node]:  # gracefully would ask the GCS
            self.cluster.remove_node(node, allow_graceful=False)
        self.cluster.shutdown()

    def shutdown(self) -> None:
        """End every node."""
        self.cluster.shutdown()
