"""API servers of others, which the cluster's own hands requests on to: as processes beside the node's."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster import node
from tests.cluster.binaries import ADAPTER, METRICS
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
    words = (
        "--kubeconfig={kubeconfig}",
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={authority.path('ca.pem')}",
    )
    with started(
        cluster, "metrics-server", METRICS.path("metrics-server"), "10.96.0.81", ("v1beta1.metrics.k8s.io",), *words
    ):
        yield


@contextlib.contextmanager
def prometheus_adapter(cluster: Cluster, prometheus: str, rules: list[dict[str, Any]]) -> Iterator[None]:
    """The metrics of pods that rules make of those of a Prometheus."""
    config = node.FOLDER / "adapter.json"
    # JSON is YAML.
    config.write_text(json.dumps({"rules": rules}))
    words = (
        "--lister-kubeconfig={kubeconfig}",
        f"--config={config}",
        f"--prometheus-url={prometheus}",
        "--metrics-relist-interval=5s",
        "--metrics-max-age=30s",
    )
    versions = ("v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io")
    with started(cluster, "prometheus-adapter", ADAPTER.path("adapter"), "10.96.0.82", versions, *words):
        yield


@contextlib.contextmanager
def started(
    cluster: Cluster, name: str, program: Path, address: str, versions: tuple[str, ...], *words: str
) -> Iterator[None]:
    """Starts a program that serves `versions` of API groups (`v1.group`), as a service with `address`; ends it."""
    authority, daemons = Authority(node.FOLDER / "pki"), Daemons(node.FOLDER / "logs")
    host = f"{name}.{NAMESPACE}.svc"
    authority.sign(name, name, "system:masters", hosts=(f"DNS:{host}", f"IP:{address}"))
    kubeconfig = str(authority.kubeconfig(name, SERVER))
    (port,) = free_ports(1)
    service = _service(name, address, port)
    served = _served(name, versions, Path(authority.path("ca.pem")).read_bytes())
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

    context = ssl.create_default_context(cafile=authority.path("ca.pem"))
    try:
        cluster.kubectl("apply", "-f", "-", stdin=service)
        # Before that the API server would reach somebody else there, and keep the connection.
        wait_for(lambda: daemons.healthy(name, process, f"https://{address}/readyz", context), 120, name)
        cluster.kubectl("apply", "-f", "-", stdin=served)
        for version in versions:
            done = cluster.run("wait", "--for=condition=Available", f"apiservice/{version}", "--timeout=120s")
            assert not done.returncode, cluster.run("describe", "apiservice", version).stdout + daemons.tail(name)
        yield
    finally:
        # Nobody is led to it any more when it ends.
        for objects in (served, service):
            cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=objects)
        process.kill()
        process.wait()


def _service(name: str, address: str, port: int) -> str:
    """A service that leads to a port of the node."""
    place = {"name": name, "namespace": NAMESPACE}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": place,
        "spec": {"clusterIP": address, "ports": [{"port": 443, "targetPort": port}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**place, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [NODE], "conditions": {"ready": True}}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, endpoints]})


def _served(name: str, versions: tuple[str, ...], authority: bytes) -> str:
    """What has the cluster's API server hand on requests of these versions."""
    of = {
        "service": {"name": name, "namespace": NAMESPACE},
        "caBundle": base64.b64encode(authority).decode(),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    items = [
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": one},
            "spec": {"version": one.partition(".")[0], "group": one.partition(".")[2], **of},
        }
        for one in versions
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
