"""Pods on two nodes, which pull their image by its digest, and a node that is drained.

The tests are steps of one fleet's life.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import node, registry, second
from tests.cluster.node import Cluster
from tests.cluster.registry import Registry
from tests.cluster.second import SecondNode
from tests.k8s.deployed import Pods, unapplied
from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.servers import wait_for
from tfserving.serving.models_yaml.server import IMAGE

KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [volume], image: 'IMAGE', cpu: 50m, memory: 1Gi, drain_seconds: 4, "
    "max_replicas: 3}}\n"
)


@pytest.fixture(scope="module")
def images(second_node: SecondNode) -> Iterator[Registry]:  # noqa: ARG001 - it pulls, too
    with registry.started(node.FOLDER, second.FOLDER) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(
    cluster: Cluster,
    second_node: SecondNode,
    scaled_versions: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pods]:
    """A fleet that may use both nodes, and that is yet to be applied."""
    made = unapplied(cluster, scaled_versions, tmp_path_factory.mktemp("nodes"), KUBERNETES.replace("IMAGE", IMAGE))
    try:
        second_node.admit(made.namespace)
        yield made
    finally:
        made.remove()


def pods(fleet: Pods) -> list[dict[str, Any]]:
    """Those that aren't about to end."""
    found = json.loads(fleet.kubectl("get", "pods", "--output=json"))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def nodes(fleet: Pods) -> list[str]:
    """Where the pods are that are ready."""
    return sorted(
        pod["spec"]["nodeName"]
        for pod in pods(fleet)
        if any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
    )


def load(fleet: Pods, rate: float) -> Load:
    return fleet.load(rate=rate, kinds=(UNLABELLED, BY_STABLE))


def test_an_image_that_the_registry_lacks_is_told_and_its_pods_block_no_drain(
    fleet: Pods, images: Registry, second_node: SecondNode
) -> None:
    image = f"{images.address}/serving@sha256:{'0' * 64}"
    fleet.say(KUBERNETES.replace("IMAGE", image))
    said = fleet.k8s("apply", code=1).stderr
    assert f"cannot pull image {image}: ErrImagePull: " in said
    assert "not found" in said
    # No pod is ready, so the budget allows none to go that is.
    wait_for(lambda: {pod["spec"].get("nodeName") for pod in pods(fleet)} == {"node", "second"}, what="both nodes")
    second_node.drain(10)
    fleet.cluster.kubectl("uncordon", second_node.name)


def test_pods_of_an_image_by_its_digest_spread_over_zones(fleet: Pods, images: Registry) -> None:
    image = images.push(IMAGE, "serving")
    fleet.say(KUBERNETES.replace("IMAGE", image))
    fleet.k8s("apply")
    wait_for(lambda: nodes(fleet) == ["node", "second"], what="a pod in each zone")
    found = {pod["status"]["containerStatuses"][0]["imageID"].rpartition("@")[2] for pod in pods(fleet)}
    assert found == {image.rpartition("@")[2]}
    wait_for(fleet.reachable, what="the Service's address")


def test_a_drained_nodes_clients_lose_no_request(fleet: Pods, second_node: SecondNode) -> None:
    with load(fleet, 30) as sent:
        wait_for(lambda: sent.answered > 50)
        second_node.drain(60)
        wait_for(lambda: nodes(fleet) == ["node", "node"], 120, "pods on the other node")
        fleet.cluster.kubectl("uncordon", second_node.name)
    assert sent.failures == []
