"""KServe on the tests' cluster: its controller in a pod, by its own manifests, with its roles and its webhooks.

The certificate of the webhooks, which cert-manager makes elsewhere, is signed by the cluster's authority.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import crds, images, node
from tests.cluster.binaries import KSERVE
from tests.cluster.certificates import Authority
from tests.cluster.node import Cluster
from tests.servers import wait_for

MODULE = "github.com/kserve/kserve"
NAMESPACE, CONTROLLER = "kserve", "kserve-controller-manager"
SERVICE, SECRET = "kserve-webhook-server-service", "kserve-webhook-server-cert"
IMAGE = "localhost/kserve:tests"
# Of its manifests: those of LLMs and of models on nodes belong to other controllers.
FOLDERS = ("crd/full", "rbac", "manager", "webhook", "configmap")
WEBHOOKS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


@contextlib.contextmanager
def started(cluster: Cluster) -> Iterator[None]:
    """KServe runs, with the settings of its own manifests. A cluster that isn't of the tests has its own."""
    if not cluster.containerd:
        yield
        return
    images.load(cluster.containerd, images.of(IMAGE, KSERVE.path("manager")))
    made = _objects(cluster)
    kinds = [one for one in made if one["kind"] == "CustomResourceDefinition"]
    try:
        _apply(cluster, kinds)
        crds.wait_until_established(cluster.kubectl)
        _apply(cluster, [*_secret(), *(one for one in made if one not in kinds)])
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{CONTROLLER}", "--timeout=120s")
        wait_for(lambda: _serves(cluster), what="KServe's webhooks")
        yield
    finally:
        # First the webhooks: without their pod, nothing could be changed that they check.
        for kind in WEBHOOKS:
            names = [one["metadata"]["name"] for one in made if f"{one['kind'].lower()}s" == kind]
            cluster.run("delete", kind, *names, "--ignore-not-found")
        cluster.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


def _objects(cluster: Cluster) -> list[dict[str, Any]]:
    """KServe's manifests, in its namespace, for the image that the node has."""
    config = KSERVE.required(MODULE)
    manager = {
        "metadata": {"name": CONTROLLER, "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"containers": [_CONTAINER]}}},
        "apiVersion": "apps/v1",
        "kind": "Deployment",
    }
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "namespace": NAMESPACE,
            "resources": [os.path.relpath(config / one, Path(folder).resolve()) for one in FOLDERS],
            "patches": [{"patch": json.dumps(manager)}],
        }
        (Path(folder) / "kustomization.yaml").write_text(json.dumps(content))
        text = cluster.kubectl("kustomize", folder)
    text = text.replace("$(webhookServiceName)", SERVICE).replace("$(kserveNamespace)", NAMESPACE)
    found = [one for one in yaml.safe_load_all(text) if one["metadata"]["name"] != "kserve-webhook-server-secret"]
    authority = base64.b64encode((node.FOLDER / "pki/ca.pem").read_bytes()).decode()
    for hook in (hook for one in found for hook in one.get("webhooks", ())):
        hook["clientConfig"]["caBundle"] = authority
    return found


# Their image is static and here already, and a test waits for it to start.
_CONTAINER = {
    "name": "manager",
    "image": IMAGE,
    "imagePullPolicy": "Never",
    "args": ["--metrics-addr=127.0.0.1:8080"],
    "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "1"}},
    "readinessProbe": {"initialDelaySeconds": 0, "periodSeconds": 1},
}


def _secret() -> list[dict[str, Any]]:
    """The namespace, and in it the certificate of the webhooks."""
    authority = Authority(node.FOLDER / "pki")
    authority.sign("kserve", "kserve", hosts=(f"DNS:{SERVICE}.{NAMESPACE}.svc",))
    pair = {"tls.crt": "kserve.pem", "tls.key": "kserve.key"}
    data = {name: base64.b64encode(Path(authority.path(file)).read_bytes()).decode() for name, file in pair.items()}
    metadata = {"name": SECRET, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data},
    ]


def _apply(cluster: Cluster, items: list[dict[str, Any]]) -> None:
    cluster.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
    )


def _serves(cluster: Cluster) -> bool:
    """Whether the API server reaches the webhooks."""
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "probe", "namespace": NAMESPACE},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": IMAGE}]}},
    }
    return not cluster.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(service)).returncode
