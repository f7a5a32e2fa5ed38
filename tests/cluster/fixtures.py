"""The cluster that the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import aggregated, node, second
from tests.cluster import kserve as kserve_of_tests
from tests.cluster.node import Cluster
from tests.cluster.second import SecondNode
from tests.docker.machine import Machine
from tfserving.serving.models_yaml.server import IMAGE


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A Kubernetes cluster that has the image of the stand-in, under the name that manifests have it.

    KUBECONFIG names one that runs already, for those who change these tests.
    """
    if given := node.given():
        if not given.has_image(IMAGE):
            given.load_image(request.getfixturevalue("docker_host"), IMAGE)
        yield given
        return
    if reason := node.unusable():
        pytest.skip(f"no cluster can run here: {reason}")
    if node.unbuilt():
        pytest.skip("Kubernetes isn't built yet: `python -m tests.cluster build` does it, once")
    host = request.getfixturevalue("docker_host")
    before = Machine.now()
    with node.started() as started:
        started.load_image(host, IMAGE)
        yield started
    assert not (left := node.left() or before.left(node.FOLDER)), f"the cluster left {left}"


@pytest.fixture(scope="session")
def second_node(cluster: Cluster) -> Iterator[SecondNode]:
    """A second node, for pods of the namespaces that a test has it admit."""
    if not cluster.containerd:
        pytest.skip("only a cluster of the tests gets a second node")
    with second.started(cluster) as started:
        yield started


@pytest.fixture
def metrics_server(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with the metrics of its pods, of which there must be some. Autoscalers of all fleets act on them."""
    if not cluster.containerd:
        yield cluster
        return
    with aggregated.metrics_server(cluster):
        yield cluster


@pytest.fixture(scope="session")
def kserve(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with KServe."""
    with kserve_of_tests.started(cluster):
        yield cluster
