"""One placement group per replica: its GPUs and CPUs as one bundle on one node.

A group is made when its replica starts and removed when the replica is gone, at the latest when the stage
ends. A group that finds no room waits, which is what makes an autoscaler bring a node; a group whose node dies
is placed again by Ray as soon as a node has room, and the replica starts anew inside it.
"""

import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.util.accelerators import (
    NVIDIA_TESLA_K80,
    NVIDIA_TESLA_P4,
    NVIDIA_TESLA_P100,
    NVIDIA_TESLA_T4,
    NVIDIA_TESLA_V100,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    from llambert.classifier.chip import HalfPrecision


def node_resources(node_resource: str | None) -> dict[str, float]:
    """The resources that bind a replica to nodes with a custom resource: an amount so small that it never runs out.

    An autoscaler then adds nodes of that kind for it, and removes them when they are idle.
    """
    return {node_resource: 0.001} if node_resource else {}


# Ray's names of the GPUs below compute capability 8.0.
_WITHOUT_BFLOAT16 = {
    f"accelerator_type:{name}"
    for name in (NVIDIA_TESLA_V100, NVIDIA_TESLA_P100, NVIDIA_TESLA_T4, NVIDIA_TESLA_P4, NVIDIA_TESLA_K80)
}


def half_precision_of(nodes: Iterable[Mapping[str, float]], node_resource: str | None) -> "HalfPrecision | None":
    """``Executor.half_precision`` of nodes that have these resources.

    ``float16`` if every node with a GPU has a type that is known to be too old for ``bfloat16``: a GPU of unknown type
    is taken for a new one, and an actor on one that is too old says so.
    """
    usable = [node for node in nodes if node.get("GPU", 0) > 0 and (not node_resource or node_resource in node)]
    if not usable:
        return None
    return "float16" if all(_WITHOUT_BFLOAT16 & node.keys() for node in usable) else "bfloat16"


# A group handed out this recently may have no actor yet: Ray Data starts it right after.
STARTING_S = 10.0


class ReplicaGroups:
    """The STRICT_PACK placement groups of one pool of actors, at most ``max_replicas``; a context manager.

    ``actor_options`` goes to Ray Data as ``ray_remote_args_fn``. Ray Data 2.60 calls that when it starts an
    actor, and also every 30 s to look at memory; and it never removes a group made there. So a group is
    tied to an actor's name: as long as no live actor has the name, the same group is handed out again.
    ``node_selector``: Ray's label selector of the nodes that groups may be placed on; by default, all.
    """

    def __init__(
        self,
        title: str,
        num_gpus: float,
        num_cpus: float,
        max_replicas: int,
        node_resource: str | None = None,
        node_selector: dict[str, str] | None = None,
    ) -> None:
        self._bundle = {"GPU": num_gpus, "CPU": num_cpus, **node_resources(node_resource)}
        self._title, self._selector = title, node_selector
        run = uuid.uuid4().hex[:8]
        self._names = [f"{title}-replica-{number}-{run}" for number in range(max_replicas)]
        self._groups: dict[str, PlacementGroup] = {}
        self._handed_out: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Print a line if no node is large enough yet: the stage waits for the autoscaler, or forever."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= num for name, num in self._bundle.items()) for node in nodes):
            needed = ", ".join(f"{num:g} {name}" for name, num in self._bundle.items())
            print(
                f"{self._title}: waits for a node with {needed}; the cluster has none yet", file=sys.stderr, flush=True
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with self._lock:
            for name in list(self._groups):
                self._remove(name)

    def actor_options(self) -> dict[str, Any]:
        """Options for the next actor: the name of a replica that is not there, and its group.

        Where all are there, those of the last one: Ray refuses a second actor of a name.
        """
        with self._lock:
            name = next((name for name in self._names if not _actor_exists(name)), self._names[-1])
            if name not in self._groups:
                self._groups[name] = placement_group(
                    [self._bundle],
                    strategy="STRICT_PACK",
                    name=name,
                    bundle_label_selector=[self._selector] if self._selector else None,
                )
            self._handed_out[name] = time.monotonic()
            strategy = PlacementGroupSchedulingStrategy(self._groups[name], placement_group_bundle_index=0)
            return {"name": name, "scheduling_strategy": strategy}

    def release_unused(self) -> None:
        """Remove the groups of replicas that are gone, so that their GPUs serve others or their node leaves."""
        with self._lock:
            for name in list(self._groups):
                if time.monotonic() - self._handed_out[name] > STARTING_S and not _actor_exists(name):
                    self._remove(name)

    def _remove(self, name: str) -> None:
        remove_placement_group(self._groups.pop(name))


def _actor_exists(name: str) -> bool:
    """Whether an actor has this name: pending, running or restarting."""
    try:
        ray.get_actor(name)
    except ValueError:
        return False
    return True
