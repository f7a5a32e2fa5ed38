"""A second node, in a zone of its own: for tests that need one, in a cluster that runs already.

It has a containerd, a kubelet, a bridge and a folder to itself, and the cluster's one kube-proxy serves it, too, since
both are on this machine. Its taint keeps away all pods but those of namespaces that `admit` names.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cluster import network, node, processes, worker
from tests.cluster.certificates import Authority
from tests.cluster.node import Cluster
from tests.cluster.processes import Daemons
from tests.servers import wait_for

WORKER = worker.Worker(
    "second", "two", network.SECOND_BRIDGE, network.SECOND_NODE, network.SECOND_PODS, taint="tests/second"
)
FOLDER = node.FOLDER / WORKER.name
GROUP = f"{processes.GROUP}/{WORKER.name}"


@dataclass(frozen=True)
class SecondNode:
    """It runs, and has the pause image alone."""

    cluster: Cluster
    name: str = WORKER.name

    def admit(self, namespace: str) -> None:
        """Lets pods that this namespace gets from now on run here."""
        tolerations = json.dumps([{"key": WORKER.taint, "operator": "Exists"}])
        annotation = f"scheduler.alpha.kubernetes.io/defaultTolerations={tolerations}"
        self.cluster.kubectl("annotate", "namespace", namespace, annotation)

    def drain(self, seconds: int) -> None:
        """Has its pods evicted, which may take so long; it gets no others until it is uncordoned."""
        options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={seconds}s")
        self.cluster.kubectl("drain", self.name, *options)


@contextlib.contextmanager
def started(cluster: Cluster) -> Iterator[SecondNode]:
    """Adds the node to the cluster of the tests; leaves that as it was."""
    _remove(cluster)
    try:
        FOLDER.mkdir()
        for folder in worker.places(FOLDER).values():
            folder.mkdir(parents=True)
        (FOLDER / "logs").mkdir()
        processes.make_group(GROUP)
        network.make_bridge(WORKER.bridge, WORKER.address)
        daemons = Daemons(FOLDER / "logs", GROUP)
        worker.start_node(daemons, Authority(node.FOLDER / "pki"), FOLDER, WORKER)
        wait_for(lambda: _ready(cluster), 120, "a second node that is ready")
        yield SecondNode(cluster)
    finally:
        _remove(cluster)


def _ready(cluster: Cluster) -> bool:
    condition = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    return cluster.run("get", "node", WORKER.name, "-o", condition).stdout == "True"


def _remove(cluster: Cluster) -> None:
    """Ends the node, or what is left of one, with the pods that are there."""
    processes.remove_group(GROUP)
    network.remove_bridge(WORKER.bridge)
    shutil.rmtree(FOLDER, ignore_errors=True)
    cluster.kubectl("delete", "node", WORKER.name, "--ignore-not-found")
    there = f"--field-selector=spec.nodeName={WORKER.name}"
    cluster.kubectl("delete", "pods", "--all-namespaces", there, "--force", "--grace-period=0")
