"""Prometheus as a pod, which reads the metrics pages of the servers of its namespace."""

from __future__ import annotations

import json
from typing import Any

from tfserving.serving.models_yaml.server import Compose

IMAGE = Compose().prometheus
PORT = 9090
_NAME = "prometheus"
_POD = "__meta_kubernetes_pod"
# Argo's label of a revision's pods becomes a label of their series.
CONFIG = f"""\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: serving
  metrics_path: /monitoring/prometheus/metrics
  kubernetes_sd_configs: [{{role: pod, namespaces: {{own_namespace: true}}}}]
  relabel_configs:
  - {{source_labels: [{_POD}_label_app_kubernetes_io_name], regex: tensorflow-serving, action: keep}}
  - {{source_labels: [{_POD}_container_port_name], regex: rest, action: keep}}
  - {{regex: {_POD}_label_(rollouts_pod_template_hash), action: labelmap}}
"""


def manifests(namespace: str) -> str:
    """A Prometheus that may list the pods of its namespace, and its Service."""
    metadata, labels = {"name": _NAME}, {"app": _NAME}
    security = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
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
    volumes = [{"name": "config", "configMap": metadata}, {"name": "data", "emptyDir": {}}]
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    items: list[dict[str, Any]] = [
        {"kind": "ServiceAccount"},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": _NAME},
            "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": namespace}],
        },
        {"kind": "ConfigMap", "data": {"prometheus.yml": CONFIG}},
        {"kind": "Service", "spec": {"selector": labels, "ports": [{"port": PORT}]}},
        {
            "kind": "Pod",
            "spec": {
                "serviceAccountName": _NAME,
                "securityContext": security,
                "containers": [container],
                "volumes": volumes,
            },
        },
    ]
    made = [{"apiVersion": "v1", "metadata": {**metadata, "labels": labels}, **item} for item in items]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
