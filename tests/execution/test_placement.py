"""Replicas of four GPUs on a cluster whose GPUs are numbers: two nodes of four each, a scripted worker as engine."""

import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from llambert.errors import InputError
from llambert.execution import Outcome, Pool
from llambert.execution.placement import ReplicaGroups
from llambert.execution.ray_executor import RAY
from llambert.storage.manifest import Part

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FOUR_GPUS = {"num_gpus": 4.0, "num_cpus": 0.1}


@pytest.fixture(scope="module")
def cluster():
    """A head without GPUs; nodes come and go in the tests. Its files are its own: a crash leaves no trace."""
    if ray.is_initialized():
        ray.shutdown()
    # A short path: those of Ray's sockets are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster):
    node = cluster.add_node(num_cpus=1, num_gpus=4, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    return node


class Scripted:
    """Notes where each unit was done, and waits until the test lets it go on."""

    def __init__(self, folder, refused=False):
        if refused:
            raise InputError("model x: not there")
        self.folder = Path(folder)

    def __call__(self, unit):
        context = ray.get_runtime_context()
        note = {
            "node": context.get_node_id(),
            "group": context.get_placement_group_id(),
            "actor": context.get_actor_id(),
        }
        attempt = len(list(self.folder.glob(f"{unit['n']}-*.json")))
        (self.folder / f"{unit['n']}-{attempt}.json").write_text(json.dumps(note))
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return Outcome([Part(name=str(unit["n"]), num_rows=1, num_bytes=0, sha256="")])


class Running(threading.Thread):
    """``RAY.run`` beside the test, so that the test can look at the cluster meanwhile."""

    def __init__(self, folder, num_units, pool):
        super().__init__(daemon=True)
        self.folder, self.num_units, self.pool = folder, num_units, pool
        self.done, self.error = [], None
        self.start()

    def run(self):
        try:
            units = [{"n": n} for n in range(self.num_units)]
            for outcome in RAY.run("annotate", Scripted, (str(self.folder),), units, self.pool):
                self.done.append(int(outcome.parts[0].name))
        except Exception as error:
            self.error = error

    def notes(self):
        return [json.loads(path.read_text()) for path in self.folder.glob("*.json") if path.stat().st_size]

    def finish(self):
        (self.folder / "go").touch()
        self.join(120)
        assert not self.is_alive()
        assert self.error is None, self.error
        assert sorted(self.done) == list(range(self.num_units))


def until(condition, timeout_s=90.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


def groups(*states):
    return [
        g for g in placement_group_table().values() if g["state"] in (states or ("CREATED", "PENDING", "RESCHEDULING"))
    ]


def test_two_replicas_take_a_node_each_a_third_waits_and_a_lost_one_comes_back(cluster, tmp_path):
    nodes = [add_node(cluster), add_node(cluster)]
    pool = Pool(min_actors=3, max_actors=3, num_gpus=4, num_cpus=0.1)
    running = Running(tmp_path, 8, pool)
    until(lambda: len({note["node"] for note in running.notes()}) == 2 and len(groups("PENDING")) == 1)
    assert [group["strategy"] for group in groups()] == ["STRICT_PACK"] * 3
    assert all(list(group["bundles"].values()) == [{"GPU": 4.0, "CPU": 0.1}] for group in groups())
    assert {note["node"] for note in running.notes()} == {node.node_id for node in nodes}
    assert len({note["group"] for note in running.notes()}) == 2

    cluster.remove_node(nodes[1], allow_graceful=False)
    until(lambda: len(groups("CREATED")) == 1)
    assert running.error is None
    back = add_node(cluster)
    until(lambda: any(note["node"] == back.node_id for note in running.notes()))
    running.finish()
    assert groups() == []
    for node in (nodes[0], back):
        cluster.remove_node(node)


def test_groups_are_gone_however_the_stage_ends(cluster, tmp_path):
    node = add_node(cluster)
    pool = Pool(num_gpus=4, num_cpus=0.1)
    with pytest.raises(InputError, match="not there"):
        list(RAY.run("refused", Scripted, (str(tmp_path), True), [{"n": 0}], pool))
    assert groups() == []
    (tmp_path / "go").touch()
    outcomes = RAY.run("given up", Scripted, (str(tmp_path),), [{"n": n} for n in range(4)], pool)
    next(outcomes)
    outcomes.close()
    assert groups() == []
    assert len(list(RAY.run("again", Scripted, (str(tmp_path),), [{"n": 0}], pool))) == 1
    cluster.remove_node(node)


def test_asking_again_before_an_actor_starts_makes_no_second_group(cluster, capsys):
    with ReplicaGroups("looked at", **FOUR_GPUS, max_replicas=2) as replicas:
        assert capsys.readouterr().err == "looked at: waits for a node with 4 GPU, 0.1 CPU; the cluster has none yet\n"
        first = replicas.actor_options()
        for _ in range(5):
            assert replicas.actor_options()["name"] == first["name"]
        assert len(groups()) == 1
    assert groups() == []


def test_a_replica_that_is_gone_gives_its_group_back_and_its_place_to_the_next(cluster, monkeypatch):
    node = add_node(cluster)
    monkeypatch.setattr("llambert.execution.placement.STARTING_S", 0.0)

    @ray.remote(num_gpus=4, num_cpus=0.1)
    class Replica:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    with ReplicaGroups("replica", **FOUR_GPUS, max_replicas=2) as replicas:
        options = replicas.actor_options()
        actor = Replica.options(**options).remote()
        assert ray.get(actor.node.remote()) == node.node_id
        replicas.release_unused()
        assert len(groups()) == 1
        assert replicas.actor_options()["name"] != options["name"]  # the second place, while the first is taken
        ray.kill(actor)
        until(lambda: replicas.actor_options()["name"] == options["name"])
        replicas.release_unused()
        assert groups() == []
        assert ray.get(Replica.options(**replicas.actor_options()).remote().node.remote()) == node.node_id
    assert groups() == []
    cluster.remove_node(node)


class OnNodes:
    """Has no GPU on the node where the first one was made, or, with ``everywhere``, on any."""

    def __init__(self, folder, everywhere=False):
        node = ray.get_runtime_context().get_node_id()
        with contextlib.suppress(FileExistsError), open(Path(folder, "bad"), "x") as file:
            file.write(node)
        if everywhere or Path(folder, "bad").read_text() == node:
            raise RuntimeError("No CUDA GPUs are available")

    def __call__(self, unit):
        node = ray.get_runtime_context().get_node_id()
        return Outcome([Part(name=str(unit["n"]), num_rows=1, num_bytes=0, sha256="")], replica=node)


def test_a_node_whose_gpu_is_broken_is_left_and_its_units_go_to_another(cluster, tmp_path, capsys):
    nodes = [add_node(cluster), add_node(cluster)]
    pool, units = Pool(**FOUR_GPUS), [{"n": n} for n in range(3)]
    try:
        outcomes = list(RAY.run("label", OnNodes, (str(tmp_path),), units, pool))
        assert sorted(outcome.parts[0].name for outcome in outcomes) == ["0", "1", "2"]
        assert (tmp_path / "bad").read_text() not in {outcome.replica for outcome in outcomes}
        said = capsys.readouterr().err
        assert said.count("failed twice and is left: RuntimeError: No CUDA GPUs are available") == 1
        with pytest.raises(InputError, match=r"^label: no worker could start in the same way on 2 nodes \(") as refused:
            list(RAY.run("label", OnNodes, (str(tmp_path), True), units, pool))
        assert "No CUDA GPUs are available" in str(refused.value)
    finally:
        for node in nodes:
            cluster.remove_node(node)
