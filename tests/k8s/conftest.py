"""Pods that tests of the cluster share, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.node import Cluster
from tests.k8s.deployed import KUBERNETES, Pods, at_version_1, unapplied


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
