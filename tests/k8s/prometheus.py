"""Prometheus as a pod, which reads the metrics pages of the servers of its namespace.

Debian's can't list a cluster's pods, so it is told them over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.cluster.network import NODE
from tests.cluster.node import Cluster
from tests.docker.engine import WATCHER
from tests.servers import free_ports
from tfserving.k8s.figures import HASH
from tfserving.k8s.pods import REST_PORT
from tfserving.serving.config import METRICS_PATH

IMAGE = WATCHER
PORT = 9090
_NAME = "prometheus"
_SERVERS = "--selector=app.kubernetes.io/name=tensorflow-serving"


@contextlib.contextmanager
def running(cluster: Cluster, namespace: str) -> Iterator[str]:
    """Starts it; yields its address, which this machine reaches, too."""

    found: list[dict[str, Any]] = []
    over = threading.Event()

    class Targets(BaseHTTPRequestHandler):
        """The servers' pods, as Prometheus reads them (https://prometheus.io/docs/prometheus/latest/http_sd/)."""

        def do_GET(self) -> None:
            # It asks again when it got no answer in time.
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    def look() -> None:
        # kubectl may take longer than Prometheus waits for an answer.
        while not over.wait(0.5):
            found[:] = _targets(cluster, namespace)

    (port,) = free_ports(1)
    threads = [threading.Thread(target=look, daemon=True)]
    with ThreadingHTTPServer((NODE, port), Targets) as server:
        threads.append(threading.Thread(target=server.serve_forever, daemon=True))
        for thread in threads:
            thread.start()
        try:
            cluster.apply(_manifests(f"http://{NODE}:{port}"), namespace)
            cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{_NAME}", "--timeout=180s")
            address = ("service", _NAME, "--output=jsonpath={.spec.clusterIP}")
            yield f"http://{cluster.kubectl('-n', namespace, 'get', *address)}:{PORT}"
        finally:
            over.set()
            server.shutdown()


def _targets(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    pods = json.loads(cluster.kubectl("-n", namespace, "get", "pods", _SERVERS, "--output=json"))["items"]
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{REST_PORT}"],
            "labels": {
                # As the Prometheus Operator sets them.
                "namespace": namespace,
                "pod": pod["metadata"]["name"],
                HASH: pod["metadata"]["labels"].get(HASH.replace("_", "-"), ""),
            },
        }
        for pod in pods
        if pod["status"].get("podIP")
    ]


def _manifests(targets: str) -> str:
    metadata, labels = {"name": _NAME}, {"app": _NAME}
    scrape = {"job_name": "serving", "metrics_path": METRICS_PATH}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{**scrape, "http_sd_configs": [{"url": targets, "refresh_interval": "2s"}]}],
    }
    container = {
        "name": _NAME,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["prometheus", "--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "config", "configMap": metadata}, {"name": "data", "emptyDir": {}}],
    }
    items: list[dict[str, Any]] = [
        # JSON is YAML.
        {"kind": "ConfigMap", "data": {"prometheus.yml": json.dumps(config)}},
        {"kind": "Service", "spec": {"selector": labels, "ports": [{"port": PORT}]}},
        {"kind": "Pod", "spec": pod},
    ]
    made = [{"apiVersion": "v1", "metadata": {**metadata, "labels": labels}, **item} for item in items]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
