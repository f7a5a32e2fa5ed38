"""Models from an object store: how pods get them, a rollout of what is published later, and who has the keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster import network
from tests.cluster.node import Cluster
from tests.exporting import export_scaled
from tests.k8s.deployed import Pods, volume
from tests.k8s.reaching import reached
from tests.k8s.rolled import MODELS
from tests.object_stores import KEY, SECRET, Store, started

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [object-store], cpu: 50m, memory: 1Gi, drain_seconds: 6, "
    "replicas: 1, max_replicas: 1, object_store: {{url: 's3://models/published', endpoint: '%s', secret: keys, "
    "interval: 1, egress: {{dns: [10.97.0.1/32]}}}}}}\n"
)


def assert_only_sync_has_the_keys_and_reaches_only_the_store(pods: Pods, store: Store) -> None:
    def found(container: str) -> str:
        return pods.kubectl("exec", "deployment/serving", f"--container={container}", "--", "sh", "-c", SEARCH)

    assert SECRET in found("sync")
    assert SECRET not in found("server")
    # The server has its own user, and sees its own processes only.
    (pod,) = json.loads(pods.kubectl("get", "pods", "--output=json"))["items"]
    users = {"server": "10001", "sync": "10002"}
    for container, user in users.items():
        assert (
            pods.kubectl("exec", pod["metadata"]["name"], f"--container={container}", "--", "id", "-u").strip() == user
        )
    # The policy is the pod's: it holds for both.
    address = urlsplit(store.url).netloc
    others = [f"{network.NODE}:10250", f"{network.API_SERVICE}:443"]
    for container in users:
        name = pod["metadata"]["name"]
        assert reached(pods.cluster, pods.namespace, name, [address, *others], container) == {address}


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path) -> Iterator[Store]:
    """An S3 server that the cluster's pods reach."""
    if not cluster.containerd:
        pytest.skip("pods of a cluster elsewhere don't reach an object store of this machine")
    (tmp_path / "weed").mkdir()
    with started(tmp_path / "weed", network.NODE) as made:
        made.system.mkdir("models")
        yield made


# Prints what a process finds of the keys: in files, and in the environments of all processes that it sees.
SEARCH = "cat /secrets/store/* /proc/[0-9]*/environ /proc/[0-9]*/root/secrets/store/* 2> /dev/null; ls -d /proc/[0-9]*"


@pytest.mark.usefixtures("enforced")
def test_what_is_published_is_served_and_rolled_out(
    cluster: Cluster,
    toolkit: str,  # noqa: ARG001 - the image of the sync
    store: Store,
    tmp_path: Path,
) -> None:
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
        keys = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        pods.kubectl("create", "secret", "generic", "keys", f"--from-literal=credentials={keys}")
        pods.k8s("apply")
        with pods.load() as load:
            publish(2)
            pods.through(load, "start", "scaled")
        assert load.failures == []
        assert set(load.versions) == {1, 2}
        said = pods.kubectl("logs", "deployment/serving", "--container=sync")
        assert "s3://models/published/scaled/2 is copied" in said
        assert SECRET not in said
        assert_only_sync_has_the_keys_and_reaches_only_the_store(pods, store)
    finally:
        cluster.run("delete", "namespace", pods.namespace, "--wait=false")
        cluster.run("delete", "persistentvolume", pods.namespace, "--wait=false")
