"""Pods that connect to others, for network policies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.node import Cluster
from tfserving.serving.models_yaml.server import IMAGE

# Prints which of the addresses in its arguments take a connection.
_CONNECT = """\
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
        print(address)
    except OSError:
        pass
"""


def reached(cluster: Cluster, namespace: str, pod: str, addresses: Iterable[str], container: str = "") -> set[str]:
    """Which addresses a container with Python reaches."""
    where = [f"--container={container}"] if container else []
    words = ["python3", "-c", _CONNECT, *addresses]
    return set(cluster.kubectl("--namespace", namespace, "exec", pod, *where, "--", *words).split())


@dataclass(frozen=True)
class Prober:
    """A pod that does nothing until `reaches` is called."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(hash=False)

    @property
    def manifest(self) -> dict[str, Any]:
        container = {
            "name": "prober",
            "image": IMAGE,
            "command": ["sleep", "600"],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": dict(self.labels)},
            "spec": {
                "containers": [container],
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            },
        }

    def reaches(self, cluster: Cluster, host: str, ports: Iterable[int]) -> set[int]:
        """Which ports of a host it reaches."""
        found = reached(cluster, self.namespace, self.name, [f"{host}:{port}" for port in ports])
        return {int(address.rpartition(":")[2]) for address in found}
