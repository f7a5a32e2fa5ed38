"""Pods that tests of the cluster share, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import policies
from tests.cluster.node import Cluster
from tests.docker.engine import ENVOY, TOOLKIT
from tests.k8s.deployed import KUBERNETES, Pods, at_version_1, unapplied
from tests.servers import wait_for

PROXIED = (
    "kubernetes: {{namespace: {0}, components: [volume, proxy, monitoring], clients: labelled, "
    "replicas: 1, max_replicas: 1, monitoring: {{namespace: {0}-watching}}, cpu: 50m, memory: 1Gi, drain_seconds: 4, "
    f"proxy: {{{{image: '{ENVOY}'}}}}}}}}\n"
)


@pytest.fixture(scope="session")
def toolkit(cluster: Cluster, docker_host: str) -> str:
    """The toolkit's own image, as it is now, on the cluster's node."""
    cluster.load_image(docker_host, TOOLKIT)
    return TOOLKIT


@pytest.fixture(scope="session")
def deployed(cluster: Cluster) -> Iterator[dict[str, Pods]]:  # noqa: ARG001 - it ends after its pods
    """Pods that tests have done with, by what models.yaml says of the cluster: another test may go on with them."""
    left: dict[str, Pods] = {}
    yield left
    for pods in left.values():
        pods.remove()


@pytest.fixture
def pods(
    cluster: Cluster, scaled_versions: Path, tmp_path_factory: pytest.TempPathFactory, deployed: dict[str, Pods]
) -> Pods:
    return at_version_1(cluster, scaled_versions, tmp_path_factory.mktemp("pods"), deployed, KUBERNETES)


@pytest.fixture
def no_pods(cluster: Cluster, scaled_versions: Path, tmp_path: Path) -> Iterator[Pods]:
    """A fleet that is yet to be applied."""
    made = unapplied(cluster, scaled_versions, tmp_path, KUBERNETES)
    yield made
    made.remove()


@pytest.fixture(scope="session")
def proxied(
    cluster: Cluster, docker_host: str, scaled_versions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """A pod with the proxy, which lets in labelled clients only."""
    if not cluster.has_image(ENVOY):
        cluster.load_image(docker_host, ENVOY)
    made = unapplied(cluster, scaled_versions, tmp_path_factory.mktemp("proxied"), PROXIED)
    try:
        made.k8s("apply")
        wait_for(made.reachable, what="the Service's address")
        yield made
    finally:
        made.remove()


@pytest.fixture
def enforced(cluster: Cluster) -> Iterator[None]:
    """Network policies apply as long as the test runs."""
    if reason := policies.unusable():
        pytest.skip(f"no network policies can be enforced here: {reason}")
    with policies.enforced(cluster):
        yield
