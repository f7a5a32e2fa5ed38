"""The settings of models.yaml as kustomize patches for `k8s/base` and its components."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tfserving.clients.metrics import INFERENCE
from tfserving.foundation.model_server import PROGRAM
from tfserving.k8s.images import has_embedded, server_image
from tfserving.k8s.names import BASE_NAME, Names
from tfserving.k8s.rollout.in_cluster.account import rules
from tfserving.serving.models_yaml.fleet import Fleet

_CONTAINER = "/spec/template/spec/containers/0"
# More than a node has. To a container without a limit, KServe gives that of its own settings, 1 CPU by default.
_UNLIMITED = "1k"
_HTTPS = 443

Patch = dict[str, Any]


def patches(fleet: Fleet, flags: list[str], replicas: int | None) -> list[Patch]:
    """Return all patches, for a server with these flags. `replicas` overrides `kubernetes.replicas`."""
    settings = fleet.kubernetes
    scale = {"/spec/minReplicas": settings.replicas, "/spec/maxReplicas": settings.max_replicas}
    made = [
        _changes("Deployment", _deployment(fleet, flags, replicas or settings.replicas)),
        _changes("HorizontalPodAutoscaler", scale),
    ]
    components = {
        "cpu": _cpu,
        "gpu": _gpu,
        "volume": _volume,
        "object-store": _object_store,
        "monitoring": _monitoring,
        "gateway": _gateway,
        "rollouts": _rollouts,
    }
    for component in settings.ordered:
        if component in components:
            made += components[component](fleet)
    return made


def _deployment(fleet: Fleet, flags: list[str], replicas: int) -> dict[str, Any]:
    settings = fleet.kubernetes
    return {
        "/spec/replicas": replicas,
        f"{_CONTAINER}/resources/requests": {"cpu": settings.cpu, "memory": settings.memory},
        f"{_CONTAINER}/resources/limits/memory": settings.memory,
        f"{_CONTAINER}/lifecycle/preStop/sleep/seconds": settings.drain_seconds,
        "/spec/template/spec/terminationGracePeriodSeconds": grace_seconds(fleet),
        f"{_CONTAINER}/args": flags,
        f"{_CONTAINER}/image": server_image(fleet),
        **({f"{_CONTAINER}/command": [f"/usr/bin/{PROGRAM}"]} if has_embedded(fleet) else {}),
    }


def grace_seconds(fleet: Fleet) -> int:
    """Return how many seconds a pod may take to terminate.

    After it has left the Services, it serves for `drain_seconds`. Then requests in flight get the same time again.
    """
    return 2 * fleet.kubernetes.drain_seconds + 10


def _cpu(fleet: Fleet) -> Iterator[Patch]:
    cpu = fleet.kubernetes.cpu
    yield _changes("Deployment", {f"{_CONTAINER}/resources/limits/cpu": cpu})
    threads = {f"tensorflow_{which}_op_parallelism": cpu for which in ("intra", "inter")}
    for name, value in threads.items():
        if name not in fleet.server.flags:
            yield _added("Deployment", f"{_CONTAINER}/args/-", f"--{name}={value}")


def _gpu(fleet: Fleet) -> Iterator[Patch]:
    gpu, fraction = fleet.kubernetes.gpu, fleet.server.gpu_memory_fraction
    values = {
        f"{_CONTAINER}/resources/limits/nvidia.com~1gpu": str(gpu.count),
        "/spec/template/spec/nodeSelector": gpu.node_selector,
    }
    yield _changes("Deployment", values)
    if not fleet.server.gpu_memory_growth:
        yield _added("Deployment", f"{_CONTAINER}/args/-", f"--per_process_gpu_memory_fraction={fraction or 0.9}")


def _volume(fleet: Fleet) -> Iterator[Patch]:
    claim = {"claimName": fleet.kubernetes.claim, "readOnly": True}
    yield _pod({"volumes": [{"name": "models", "persistentVolumeClaim": claim}]})


def _object_store(fleet: Fleet) -> Iterator[Patch]:
    store = fleet.kubernetes.object_store
    assert store
    common: dict[str, Any] = {"image": fleet.kubernetes.toolkit_image}
    if store.endpoint:
        common["env"] = [{"name": "AWS_ENDPOINT_URL", "value": store.endpoint}]
    if store.secret:
        common["envFrom"] = [{"secretRef": {"name": store.secret}}]
    args = [store.url.rstrip("/"), "/models", "--config=/config/models/models.config", f"--newest={store.newest}"]
    # A pod whose volume exceeds its size is evicted, so the versions stay below it.
    args.append(f"--max-bytes={_bytes(store.size) * 95 // 100}")
    later = [*args, f"--interval={store.interval}", "--alive=/tmp/alive"]
    yield _pod(
        {
            "initContainers": [
                {"name": "sync-first", "args": [*args, "--once"], **common},
                {"name": "sync", "args": later, **common},
            ],
            "volumes": [{"name": "models", "emptyDir": {"sizeLimit": store.size}}],
        }
    )
    if store.endpoint:
        parts = urlsplit(store.endpoint)
        port = parts.port or (_HTTPS if parts.scheme == "https" else 80)
        yield _changes("NetworkPolicy", {"/spec/egress/0/ports/2/port": port})
    if store.account_annotations:
        metadata = {"name": BASE_NAME, "annotations": store.account_annotations}
        yield _merged({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def _monitoring(fleet: Fleet) -> Iterator[Patch]:
    ours, settings = Names.of(fleet), fleet.kubernetes.monitoring
    rule = "/spec/groups/0/rules"
    failing, slow = f"{rule}/0/expr", f"{rule}/1/expr"
    yield _changes("PrometheusRule", {failing: errors(ours, settings.error_rate), slow: slower(ours, settings.p99_ms)})
    if settings.labels:
        for kind in ("ServiceMonitor", "PrometheusRule"):
            metadata = {"name": BASE_NAME, "labels": settings.labels}
            yield _merged({"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": metadata})
    # The rule that the component adds to those of the base.
    peer = "/spec/ingress/1/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
    yield _changes("NetworkPolicy", {peer: settings.namespace})


def _gateway(fleet: Fleet) -> Iterator[Patch]:
    settings = fleet.kubernetes.gateway
    assert settings
    parents = [{"name": settings.name, "namespace": settings.namespace}]
    for kind, host in (("HTTPRoute", settings.hostname), ("GRPCRoute", settings.grpc_host)):
        yield _changes(kind, {"/spec/parentRefs": parents, "/spec/hostnames": [host]})
    peer = "/spec/ingress/0/from/2/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
    yield _changes("NetworkPolicy", {peer: settings.namespace})


def _rollouts(fleet: Fleet) -> Iterator[Patch]:
    account = Names().account
    operations = [{"op": "replace", "path": "/rules", "value": rules(fleet)}]
    yield {"target": {"kind": "Role", "name": account}, "patch": json.dumps(operations)}


def of_kserve(fleet: Fleet) -> list[Patch]:
    """Return the patches of the InferenceService, which has the pods of the patched Deployment."""
    if "cpu" in fleet.kubernetes.components:
        return []
    return [_changes("InferenceService", {"/spec/predictor/containers/0/resources/limits/cpu": _UNLIMITED})]


_COUNT, _LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
# The counters also count reads of status and metadata over REST.
_INFERENCE = f'API=~"(?i)({"|".join(INFERENCE)})"'


def _jobs(ours: Names) -> str:
    """Return the PromQL that selects the series of a fleet: Prometheus' job is the name of a Service."""
    return f'job=~"{ours.serving}|{ours.canary}"'


def errors(ours: Names, rate: float) -> str:
    """Return the PromQL of the alert: more than this share of a model's inference requests fails."""
    by = "sum by (namespace, job, model_name)"
    failed = f'rate({_COUNT}{{{_jobs(ours)}, status!="OK"}}[5m])'
    succeeded = f"rate({_LATENCY}_count{{{_jobs(ours)}, {_INFERENCE}}}[5m])"
    return f"{by} ({failed}) / {by} ({failed} or {succeeded}) > {rate:g}"


def slower(ours: Names, milliseconds: float) -> str:
    """Return the PromQL of the alert: one in a hundred inference requests takes longer. The histogram is in µs."""
    rate = f"sum by (namespace, job, model_name, le) (rate({_LATENCY}_bucket{{{_jobs(ours)}, {_INFERENCE}}}[5m]))"
    return f"histogram_quantile(0.99, {rate}) > {milliseconds * 1000:.0f}"


def _bytes(size: str) -> int:
    """Return the bytes of a size like `10Gi` (`kubernetes.object_store.size`)."""
    return int(size[:-2]) << {"Mi": 20, "Gi": 30, "Ti": 40}[size[-2:]]


def _changes(kind: str, values: dict[str, Any]) -> Patch:
    """Set values by their paths."""
    return _operations(kind, [{"op": "add", "path": path, "value": value} for path, value in values.items()])


def _added(kind: str, path: str, value: str) -> Patch:
    """Append a value to a list."""
    return _operations(kind, [{"op": "add", "path": path, "value": value}])


def _operations(kind: str, operations: list[dict[str, Any]]) -> Patch:
    return {"target": {"kind": kind, "name": BASE_NAME}, "patch": json.dumps(operations)}


def _pod(spec: dict[str, Any]) -> Patch:
    """Merge this into the pods of the Deployment."""
    template = {"spec": {"template": {"spec": spec}}}
    return _merged({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": BASE_NAME}, **template})


def _merged(content: dict[str, Any]) -> Patch:
    return {"patch": json.dumps(content)}
