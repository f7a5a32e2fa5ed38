"""What models.yaml changes in the manifests of `k8s/base` and its components, as kustomize's patches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tfserving.clients.metrics import INFERENCE
from tfserving.foundation.model_server import PROGRAM
from tfserving.k8s.names import NAME
from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.server import IMAGE

_CONTAINER = "/spec/template/spec/containers/0"
_HTTPS = 443

Patch = dict[str, Any]


def patches(fleet: Fleet, flags: list[str], replicas: int | None) -> list[Patch]:
    """All of them, for a server with these flags."""
    said = fleet.kubernetes
    made = [
        _changes("Deployment", _deployment(fleet, flags, replicas or said.replicas)),
        _changes(
            "HorizontalPodAutoscaler", {"/spec/minReplicas": said.replicas, "/spec/maxReplicas": said.max_replicas}
        ),
    ]
    if image := _image(fleet):
        made.append(_changes("Deployment", {f"{_CONTAINER}/image": image}))
    components = {
        "cpu": _cpu,
        "gpu": _gpu,
        "volume": _volume,
        "object-store": _object_store,
        "monitoring": _monitoring,
        "gateway": _gateway,
    }
    for component in said.ordered:
        if component in components:
            made += components[component](fleet)
    return made


def _deployment(fleet: Fleet, flags: list[str], replicas: int) -> dict[str, Any]:
    said = fleet.kubernetes
    return {
        "/spec/replicas": replicas,
        f"{_CONTAINER}/resources/requests": {"cpu": said.cpu, "memory": said.memory},
        f"{_CONTAINER}/resources/limits/memory": said.memory,
        f"{_CONTAINER}/lifecycle/preStop/sleep/seconds": said.drain_seconds,
        "/spec/template/spec/terminationGracePeriodSeconds": grace_seconds(fleet),
        f"{_CONTAINER}/args": flags,
        **({f"{_CONTAINER}/command": [f"/usr/bin/{PROGRAM}"]} if has_embedded(fleet) else {}),
    }


def grace_seconds(fleet: Fleet) -> int:
    """How long a pod may take to end.

    It serves for `drain_seconds` more after it has left the Services. Then requests in flight end, for as long again.
    """
    return 2 * fleet.kubernetes.drain_seconds + 10


def has_embedded(fleet: Fleet) -> bool:
    """Whether pods have the embedded server."""
    return "embedded" in fleet.kubernetes.components or is_embedded(_image(fleet) or "")


def _image(fleet: Fleet) -> str | None:
    """The image, where it isn't what the components say."""
    said = fleet.kubernetes
    if said.image or "embedded" in said.components:
        return said.image
    if {"volume", "object-store"} & set(said.components):
        # Models come from elsewhere, so it is the one that Docker runs them in.
        return fleet.server.image or (f"{IMAGE}-gpu" if "gpu" in said.components else IMAGE)
    return None


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
    common: dict[str, Any] = {"image": store.image}
    if store.endpoint:
        common["env"] = [{"name": "AWS_ENDPOINT_URL", "value": store.endpoint}]
    if store.secret:
        common["envFrom"] = [{"secretRef": {"name": store.secret}}]
    args = [store.url.rstrip("/"), "/models", "--config=/config/models/models.config", f"--newest={store.newest}"]
    # A pod whose volume has more than its size is evicted, so the versions don't get to it.
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
        metadata = {"name": NAME, "annotations": store.account_annotations}
        yield _merged({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def _monitoring(fleet: Fleet) -> Iterator[Patch]:
    said = fleet.kubernetes.monitoring
    rule = "/spec/groups/0/rules"
    failing, slow = f"{rule}/0/expr", f"{rule}/1/expr"
    yield _changes("PrometheusRule", {failing: errors(said.error_rate), slow: slower(said.p99_ms)})
    if said.labels:
        for kind in ("ServiceMonitor", "PrometheusRule"):
            metadata = {"name": NAME, "labels": said.labels}
            yield _merged({"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": metadata})
    # What the component has added to the base's rules.
    peer = "/spec/ingress/1/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
    yield _changes("NetworkPolicy", {peer: said.namespace})


def _gateway(fleet: Fleet) -> Iterator[Patch]:
    said = fleet.kubernetes.gateway
    assert said
    parents = [{"name": said.name, "namespace": said.namespace}]
    for kind, host in (("HTTPRoute", said.hostname), ("GRPCRoute", said.grpc_host)):
        yield _changes(kind, {"/spec/parentRefs": parents, "/spec/hostnames": [host]})
    peer = "/spec/ingress/0/from/2/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
    yield _changes("NetworkPolicy", {peer: said.namespace})


_JOBS = f'job=~"{NAME}|{NAME}-canary"'
_COUNT, _LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
# Status and metadata that are read over REST are counted, too.
_INFERENCE = f'API=~"(?i)({"|".join(INFERENCE)})"'


def errors(rate: float) -> str:
    """When more than this part of a model's inference requests fails, in PromQL."""
    by = "sum by (namespace, job, model_name)"
    failed = f'rate({_COUNT}{{{_JOBS}, status!="OK"}}[5m])'
    answered = f"rate({_LATENCY}_count{{{_JOBS}, {_INFERENCE}}}[5m])"
    return f"{by} ({failed}) / {by} ({failed} or {answered}) > {rate:g}"


def slower(milliseconds: float) -> str:
    """When one in a hundred of a model's inference requests takes longer, in PromQL, whose histogram is in µs."""
    rate = f"sum by (namespace, job, model_name, le) (rate({_LATENCY}_bucket{{{_JOBS}, {_INFERENCE}}}[5m]))"
    return f"histogram_quantile(0.99, {rate}) > {milliseconds * 1000:.0f}"


def _bytes(size: str) -> int:
    """The bytes of `10Gi`, as `kubernetes.object_store.size` has it."""
    return int(size[:-2]) << {"Mi": 20, "Gi": 30, "Ti": 40}[size[-2:]]


def _changes(kind: str, values: dict[str, Any]) -> Patch:
    """Puts values in the place of others, or where there are none, by their paths."""
    return _operations(kind, [{"op": "add", "path": path, "value": value} for path, value in values.items()])


def _added(kind: str, path: str, value: str) -> Patch:
    """Adds a value to the end of a list."""
    return _operations(kind, [{"op": "add", "path": path, "value": value}])


def _operations(kind: str, operations: list[dict[str, Any]]) -> Patch:
    return {"target": {"kind": kind, "name": NAME}, "patch": json.dumps(operations)}


def _pod(spec: dict[str, Any]) -> Patch:
    """Merges this into the pods of the Deployment."""
    template = {"spec": {"template": {"spec": spec}}}
    return _merged({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME}, **template})


def _merged(said: dict[str, Any]) -> Patch:
    return {"patch": json.dumps(said)}
