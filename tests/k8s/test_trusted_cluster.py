"""Pods of a real cluster that trust a key: they serve what it signed, from images by digest, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import node, registry
from tests.cluster.node import Cluster
from tests.k8s.deployed import Pods, unapplied
from tests.servers import wait_for
from tests.signed import make_key, sign_with
from tfserving.export.manifest import hash_files
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL
from tfserving.foundation.version_files import sha256_of
from tfserving.serving.models_yaml.server import IMAGE

KUBERNETES = (
    "trust: {{keys: [release.pub]}}\n"
    "kubernetes: {{namespace: {0}, components: [volume], image: 'SERVER', toolkit_image: 'TOOLKIT', cpu: 50m, "
    "memory: 1Gi, drain_seconds: 4, replicas: 1, max_replicas: 1, copy_size: 1Gi}}\n"
)


@pytest.fixture
def signed(cluster: Cluster, toolkit: str, scaled_versions: Path, tmp_path: Path) -> Iterator[tuple[Pods, Path]]:
    """A fleet with a signed version on a volume that is yet to be applied, and the key."""
    if not cluster.containerd:
        pytest.skip("pods of a cluster elsewhere don't reach a registry of this machine")
    private, public = make_key(tmp_path, "release")
    with registry.started(node.FOLDER) as images:
        names = {"SERVER": images.push(IMAGE, "server"), "TOOLKIT": images.push(f"library/{toolkit}", "toolkit")}
        kubernetes = KUBERNETES
        for mark, name in names.items():
            kubernetes = kubernetes.replace(mark, name)
        made = unapplied(cluster, scaled_versions, tmp_path, kubernetes)
        try:
            public.rename(made.folder / "release.pub")
            sign_with(made.folder / "models/scaled/1", private)
            yield made, private
        finally:
            made.remove()


def changed(version: Path) -> None:
    """Changes the graph, and makes a manifest that lists it, with its digest: as who can write to the volume can."""
    (version / SAVED_MODEL).write_bytes((version / SAVED_MODEL).read_bytes() + b"\0")
    content = json.loads((version / MANIFEST).read_text())
    content["files"][SAVED_MODEL] = hash_files(version)[SAVED_MODEL].model_dump()
    empty = json.dumps({**content, "digest": ""})
    digest = hashlib.sha256(empty.encode()).hexdigest()
    (version / MANIFEST).write_text(json.dumps({**content, "digest": digest}))


def test_attack_who_can_write_to_the_volume_changes_nothing_that_is_served(
    signed: tuple[Pods, Path],
) -> None:
    pods, _ = signed
    original = sha256_of(pods.folder / "models/scaled/1" / SAVED_MODEL)
    done = pods.k8s("apply")
    assert "Every pod serves scaled." in done.stderr, done.stderr
    assert "scaled/1 is copied, signed by the key" in pods.kubectl("logs", "deployment/serving", "-c", "sync-first")
    # A version that nobody signed, and another graph for the one that is served.
    pods.have(2)
    changed(pods.folder / "models/scaled/1")

    def log() -> str:
        return pods.kubectl("logs", "deployment/serving", "-c", "sync")

    wait_for(lambda: "scaled/2 is not signed" in log(), what="the refusal of version 2", seconds=60)
    words = "cd /models/scaled; ls; sha256sum */saved_model.pb"
    served = pods.kubectl("exec", "deployment/serving", "-c", "sync", "--", "sh", "-c", words)
    assert served == f"1\n{original}  1/saved_model.pb\n"
    # A pod that starts now gets neither, so it doesn't start.
    (pod,) = (one["metadata"]["name"] for one in json.loads(pods.kubectl("get", "pods", "--output=json"))["items"])
    pods.kubectl("delete", "pod", pod, "--wait=false")

    def refused() -> bool:
        found: list[dict[str, Any]] = json.loads(pods.kubectl("get", "pods", "--output=json"))["items"]
        for one in (one for one in found if one["metadata"]["name"] != pod):
            for status in one["status"].get("initContainerStatuses", ()):
                state = {**status["state"], **status["lastState"]}
                if status["name"] == "sync-first" and state.get("terminated", {}).get("exitCode") == 1:
                    said = pods.kubectl("logs", one["metadata"]["name"], "-c", "sync-first")
                    return "scaled/1 is not what the key" in said
        return False

    wait_for(refused, what="a pod that does not start", seconds=120)
