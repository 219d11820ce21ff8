"""What drills run on: an S3 server behind a proxy, a Ray cluster, a scripted annotator.

One testbed serves many drills; ``restore`` replaces what the last one destroyed.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from llambert.run import Run
from tests.drills.drill_pipeline import ROWS_PER_FILE, Drivers, open_drill_run, scripted_annotator, write_recipe
from tests.drills.nodes import ROOT, Nodes
from tests.fixtures.faulty_proxy import FaultyProxy, faulty_proxy
from tests.fixtures.processes import kill_family
from tests.fixtures.s3_server import S3Server, running_server

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "0",
    "OPENAI_API_KEY": "scripted",
}


@dataclass
class Testbed:
    """Everything a drill needs. Drivers and nodes reach the store through ``proxy``, the drill itself directly."""

    folder: Path
    server: S3Server
    proxy: FaultyProxy
    nodes: Nodes
    drivers: Drivers
    recipe: Path

    def open(self, name: str) -> Run:
        """The run called ``name``."""
        return open_drill_run(self.recipe, storage(name))

    def start_driver(self, name: str, program: str = "pipeline", **environment: str) -> BaseProcess:
        """A driver of the run ``name``: `jobs/pipeline.py`, or `llambert PROGRAM`."""
        arguments = [str(self.recipe), "--set", f"storage={storage(name)}"]
        places = {"RAY_ADDRESS": self.nodes.address, "AWS_ENDPOINT_URL": self.proxy.endpoint}
        return self.drivers.start(program, arguments, {**places, **environment})

    def change_nodes(self, change: Any, *arguments: Any, **named: Any) -> None:
        """``change(...)`` of the cluster, whose new nodes are to reach the store through the proxy."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", self.proxy.endpoint)
            change(*arguments, **named)

    def restore(self) -> None:
        """Restart the server, the head and worker nodes that are down; remove network disturbances."""
        self.proxy.disturbance = None
        if self.server.process is None or self.server.process.poll() is not None:
            self.server.start()
        if not _is_alive(self.nodes.gcs()) or not _is_alive(self.nodes.raylet(self.nodes.cluster.head_node)):
            self.restart_cluster()
        for node in list(self.nodes.workers):
            if not _is_alive(self.nodes.raylet(node)):
                self.change_nodes(self.nodes.kill, node)

    def restart_cluster(self) -> None:
        """Kill every node and start new ones."""
        self.nodes.lose()
        self.change_nodes(self.nodes.start)


def storage(name: str) -> str:
    """Where the run ``name`` is."""
    return f"s3://llambert-test/{name}"


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def warm_workers(folder: Path) -> Iterator[Path]:
    """The process that Ray's workers are forked from, and its folder; the raylets find it by the environment."""
    folder.mkdir()
    os.environ["WARM_WORKERS"] = str(folder / "socket")
    process = subprocess.Popen([sys.executable, "-m", "tests.drills.warm_workers", str(folder)], cwd=ROOT)
    try:
        while not (folder / "socket").exists():
            assert process.poll() is None, "warm_workers.py did not start"
            time.sleep(0.05)
        yield folder
    finally:
        kill_family(process.pid)
        del os.environ["WARM_WORKERS"]


@contextlib.contextmanager
def running_testbed(num_cpus: int = 2, rows_per_file: int = ROWS_PER_FILE, is_warm: bool = True) -> Iterator[Testbed]:
    """A testbed with two worker nodes of ``num_cpus`` logical CPUs each.

    ``is_warm``: Ray's workers are forked where their imports are done (warm_workers.py).
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    with contextlib.ExitStack() as stack:
        # Short: a socket's path has 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="d", ignore_cleanup_errors=True)))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        server = stack.enter_context(running_server(folder / "s3"))
        proxy = stack.enter_context(faulty_proxy(server.endpoint))
        annotator = stack.enter_context(scripted_annotator())
        recipe = write_recipe(folder, annotator.base_url, storage("run"), rows_per_file)
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        warm = stack.enter_context(warm_workers(folder / "w")) if is_warm else None
        nodes = Nodes(num_cpus=num_cpus, with_dashboard=False, warm=warm)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        stack.callback(nodes.shutdown)
        yield Testbed(folder, server, proxy, nodes, Drivers(folder / "drivers.log"), recipe)
