"""API servers of others, which the cluster's own hands requests on to: as processes beside the node's."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster import node
from tests.cluster.binaries import METRICS
from tests.cluster.certificates import Authority
from tests.cluster.control_plane import SERVER
from tests.cluster.network import NODE
from tests.cluster.node import Cluster
from tests.cluster.processes import Daemons
from tests.servers import free_ports, wait_for

NAMESPACE = "kube-system"


@contextlib.contextmanager
def metrics_server(cluster: Cluster) -> Iterator[None]:
    """The metrics of nodes and pods (`kubectl top`), as often as it takes them."""
    authority = Authority(node.FOLDER / "pki")
    words = ("--metric-resolution=10s", f"--kubelet-certificate-authority={authority.path('ca.pem')}")
    with started(cluster, "metrics-server", METRICS.path("metrics-server"), ("v1beta1.metrics.k8s.io",), *words):
        nodes = "/apis/metrics.k8s.io/v1beta1/nodes"
        wait_for(lambda: f'"{node.worker.FIRST.name}"' in cluster.run("get", "--raw", nodes).stdout, 60, "metrics")
        yield


@contextlib.contextmanager
def started(cluster: Cluster, name: str, program: Path, versions: tuple[str, ...], *words: str) -> Iterator[None]:
    """Starts a program that serves `versions` of API groups (`v1.group`); ends it, and leaves nothing of it."""
    authority, daemons = Authority(node.FOLDER / "pki"), Daemons(node.FOLDER / "logs")
    host = f"{name}.{NAMESPACE}.svc"
    authority.sign(name, name, hosts=(f"DNS:{host}", f"IP:{NODE}"))
    kubeconfig = str(authority.kubeconfig(name, SERVER))
    (port,) = free_ports(1)
    objects = _objects(name, port, versions, Path(authority.path("ca.pem")).read_bytes())
    process = daemons.start(
        name,
        program,
        f"--bind-address={NODE}",
        f"--secure-port={port}",
        f"--tls-cert-file={authority.path(f'{name}.pem')}",
        f"--tls-private-key-file={authority.path(f'{name}.key')}",
        *(f"--{which}={kubeconfig}" for which in ("authentication-kubeconfig", "authorization-kubeconfig")),
        *(word.format(kubeconfig=kubeconfig) for word in words),
    )
    try:
        cluster.kubectl("apply", "-f", "-", stdin=objects)
        services = [f"apiservice/{version}" for version in versions]
        cluster.kubectl("wait", "--for=condition=Available", *services, "--timeout=60s")
        assert process.poll() is None, daemons.tail(name)
        yield
    finally:
        # Nobody is led to it any more when it ends.
        cluster.run("delete", "--ignore-not-found", "-f", "-", stdin=objects).check_returncode()
        process.kill()
        process.wait()


def _objects(name: str, port: int, versions: tuple[str, ...], authority: bytes) -> str:
    """Its account's rights, and how the cluster's API server gets to it."""
    rbac = "rbac.authorization.k8s.io"

    def named(version: str, kind: str, of: str, **rest: Any) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": of, "namespace": NAMESPACE}, **rest}

    services = [
        named(
            "apiregistration.k8s.io/v1",
            "APIService",
            version,
            spec={
                "group": version.partition(".")[2],
                "version": version.partition(".")[0],
                "service": {"name": name, "namespace": NAMESPACE},
                "caBundle": base64.b64encode(authority).decode(),
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        )
        for version in versions
    ]
    endpoints = named(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        name,
        addressType="IPv4",
        ports=[{"port": port, "protocol": "TCP"}],
        endpoints=[{"addresses": [NODE], "conditions": {"ready": True}}],
    )
    endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    items = [
        named(
            f"{rbac}/v1",
            "ClusterRoleBinding",
            name,
            roleRef={"apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin"},
            subjects=[{"apiGroup": rbac, "kind": "User", "name": name}],
        ),
        named("v1", "Service", name, spec={"ports": [{"port": 443, "targetPort": port}]}),
        endpoints,
        *services,
    ]
    for item in items:
        if item["kind"] in ("ClusterRoleBinding", "APIService"):
            del item["metadata"]["namespace"]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
