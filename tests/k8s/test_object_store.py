"""Models from an object store: the image that brings them, and a rollout of what is published later."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import network
from tests.cluster.node import Cluster
from tests.docker.engine import TOOLKIT
from tests.export.test_publish import KEY, SECRET, Store, started
from tests.exporting import export_scaled
from tests.k8s.deployed import Pods, volume
from tests.k8s.rolled import MODELS

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [object-store], cpu: 50m, memory: 1Gi, drain_seconds: 6, replicas: 1, "
    "object_store: {{url: 's3://models/published', endpoint: '%s', secret: keys, interval: 1}}}}\n"
)


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path) -> Iterator[Store]:
    """An S3 server that the cluster's pods reach."""
    if not cluster.containerd:
        pytest.skip("pods of a cluster elsewhere don't reach an object store of this machine")
    (tmp_path / "weed").mkdir()
    with started(tmp_path / "weed", network.NODE) as made:
        made.system.mkdir("models")
        yield made


def test_what_is_published_is_served_and_rolled_out(
    cluster: Cluster, docker_host: str, store: Store, tmp_path: Path
) -> None:
    cluster.load_image(docker_host, TOOLKIT)
    pods = Pods(cluster, f"store-{uuid.uuid4().hex[:8]}", tmp_path / "fleet")
    pods.folder.mkdir()
    pods.say(KUBERNETES % store.url, MODELS.replace("    labels: {stable: 1}\n", ""))
    export_scaled(pods.folder / "models.yaml", (1, 2))
    pods.say(KUBERNETES % store.url)

    def publish(version: int) -> None:
        words = [
            "publish",
            f"scaled/{version}",
            "s3://models/published",
            "--fleet",
            str(pods.folder / "models.yaml"),
        ]
        command = [sys.executable, "-m", "tfserving", "export", *words]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **store.env}, check=True, capture_output=True)

    try:
        publish(1)
        cluster.apply(volume(pods.namespace, tmp_path), pods.namespace)
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        literals = [f"--from-literal={name}={value}" for name, value in keys.items()]
        pods.kubectl("create", "secret", "generic", "keys", *literals)
        pods.k8s("apply")
        with pods.load() as load:
            publish(2)
            pods.through(load, "start", "scaled")
        assert load.failures == []
        assert set(load.versions) == {1, 2}
        said = pods.kubectl("logs", "deployment/serving", "--container=sync")
        assert "s3://models/published/scaled/2 is copied" in said
        assert SECRET not in said
    finally:
        cluster.run("delete", "namespace", pods.namespace, "--wait=false")
        cluster.run("delete", "persistentvolume", pods.namespace, "--wait=false")
