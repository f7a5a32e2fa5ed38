"""The settings of models.yaml as kustomize patches for `k8s/base` and its components."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tfserving.foundation.model_server import PROGRAM
from tfserving.k8s import published
from tfserving.k8s.alerts import rules
from tfserving.k8s.configuration import checked_at_startup, set_of_models
from tfserving.k8s.images import has_embedded, server_image
from tfserving.k8s.names import BASE_NAME, STABLE, Names
from tfserving.k8s.patch import Patch, added, changes, merged, operations, pod
from tfserving.k8s.rollout.in_cluster.account import permissions
from tfserving.k8s.trust_files import TRUST, fingerprint
from tfserving.serving.config import in_container
from tfserving.serving.gpu_environment import gpu_environment
from tfserving.serving.models_yaml.autoscaling import Autoscaling
from tfserving.serving.models_yaml.fleet import Fleet

_CONTAINER = "/spec/template/spec/containers/0"
# More than a node has. To a container without a limit, KServe gives that of its own settings, 1 CPU by default.
_UNLIMITED = "1k"


def patches(fleet: Fleet, names: tuple[str, ...], flags: list[str]) -> list[Patch]:
    """Return all patches, for a server of the models `names` with these flags."""
    settings = fleet.kubernetes
    made = [changes("Deployment", _deployment(fleet, names, flags)), _scale(fleet)]
    if settings.clients == "labelled":
        pods = {"podSelector": {"matchLabels": {Names.of(fleet).client: "true"}}}
        made.append(changes("NetworkPolicy", {"/spec/ingress/0/from/0": pods}, "replace"))
    components = {
        "cpu": _cpu,
        "gpu": _gpu,
        "volume": published.volume,
        "object-store": published.object_store,
        "monitoring": _monitoring,
        "gateway": _gateway,
        "rollouts": _rollouts,
        "proxy": _proxy,
    }
    for component in settings.ordered:
        if component in components:
            made += components[component](fleet)
    return made


def _scale(fleet: Fleet) -> Patch:
    """Set the limits of the autoscaler, or delete it. KServe's has the same limits."""
    settings = fleet.kubernetes
    if settings.scales or "kserve" in settings.components:
        values = {
            "/spec/minReplicas": settings.replicas,
            "/spec/maxReplicas": settings.max_replicas,
            "/spec/metrics": _metrics(settings.autoscaling),
            "/spec/behavior/scaleDown/stabilizationWindowSeconds": settings.autoscaling.scale_down_seconds,
        }
        return changes("HorizontalPodAutoscaler", values)
    metadata = {"name": BASE_NAME}
    return merged(
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "$patch": "delete"}
    )


def _metrics(settings: Autoscaling) -> list[dict[str, Any]]:
    """Return what the autoscaler looks at. docs/kubernetes.md has the adapter's rules for these names."""
    made: list[dict[str, Any]] = []
    if settings.cpu_percent is not None:
        target = {"type": "Utilization", "averageUtilization": settings.cpu_percent}
        made.append({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    for name, value in settings.custom.items():
        amount = f"{round(value * 1000)}m" if value % 1 else f"{value:.0f}"
        average = {"type": "AverageValue", "averageValue": amount}
        made.append({"type": "Pods", "pods": {"metric": {"name": f"tensorflow_serving_{name}"}, "target": average}})
    return made


def _deployment(fleet: Fleet, names: tuple[str, ...], flags: list[str]) -> dict[str, Any]:
    settings = fleet.kubernetes
    own = Names.of(fleet).own("models").replace("/", "~1")
    trust = Names.of(fleet).own(TRUST).replace("/", "~1")
    return {
        **({} if settings.scales else {"/spec/replicas": settings.replicas}),
        # A changed value replaces the pods: a running server can't be given another set of models.
        f"/spec/template/metadata/annotations/{own}": set_of_models(names),
        # `k8s lint` checks pods with this annotation for images by tag, too.
        **({f"/spec/template/metadata/annotations/{trust}": fingerprint(fleet.trusted)} if fleet.trusted else {}),
        "/spec/template/spec/nodeSelector": _nodes(fleet),
        f"{_CONTAINER}/startupProbe/httpGet/path": _metadata(checked_at_startup(fleet, names)),
        **({f"{_CONTAINER}/readinessProbe": _ready(settings.ready_model)} if settings.ready_model else {}),
        f"{_CONTAINER}/resources/requests/cpu": settings.cpu,
        f"{_CONTAINER}/resources/requests/memory": settings.memory,
        f"{_CONTAINER}/resources/limits/memory": settings.memory,
        f"{_CONTAINER}/lifecycle/preStop/sleep/seconds": settings.drain_seconds,
        "/spec/template/spec/terminationGracePeriodSeconds": grace_seconds(fleet),
        f"{_CONTAINER}/args": flags,
        f"{_CONTAINER}/image": server_image(fleet),
        **({f"{_CONTAINER}/command": [f"/usr/bin/{PROGRAM}"]} if has_embedded(fleet) else {}),
    }


def _nodes(fleet: Fleet) -> dict[str, str]:
    """Return the labels of the nodes for the pods."""
    settings = fleet.kubernetes
    on_gpu = "gpu" in settings.components
    # TensorFlow Serving has images for amd64 only, and so has the embedded server with CUDA.
    arch = {} if has_embedded(fleet) and not on_gpu else {"kubernetes.io/arch": "amd64"}
    return {**arch, **(settings.gpu.node_selector if on_gpu else {}), **settings.node_selector}


def _metadata(model: str) -> str:
    """Return the path that responds with 200 only when the label `stable` of a model is loaded."""
    return f"/v1/models/{model}/labels/{STABLE}/metadata"


def _ready(model: str) -> dict[str, Any]:
    """Return the readiness probe of a pod that needs a model."""
    return {
        "httpGet": {"port": in_container().rest_port, "path": _metadata(model)},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
    }


def grace_seconds(fleet: Fleet) -> int:
    """Return how many seconds a pod may take to terminate.

    After it has left the Services, it serves for `drain_seconds`. Then requests in flight get the same time again.
    """
    return 2 * fleet.kubernetes.drain_seconds + 10


def _cpu(fleet: Fleet) -> Iterator[Patch]:
    cpu = fleet.kubernetes.cpu
    yield changes("Deployment", {f"{_CONTAINER}/resources/limits/cpu": cpu})
    threads = {f"tensorflow_{which}_op_parallelism": cpu for which in ("intra", "inter")}
    for name, value in threads.items():
        if name not in fleet.server.flags:
            yield added("Deployment", f"{_CONTAINER}/args/-", f"--{name}={value}")


def _gpu(fleet: Fleet) -> Iterator[Patch]:
    gpu, limits = fleet.kubernetes.gpu, f"{_CONTAINER}/resources/limits"
    # Those of the component are of a whole GPU, and of TensorFlow Serving.
    removed = [{"op": "remove", "path": f"{limits}/nvidia.com~1gpu"}, {"op": "remove", "path": f"{_CONTAINER}/env"}]
    yield operations("Deployment", removed)
    yield changes("Deployment", {f"{limits}/{gpu.resource.replace('/', '~1')}": str(gpu.count)})
    if variables := gpu_environment(fleet.server, embedded=has_embedded(fleet)):
        env = [{"name": name, "value": value} for name, value in variables.items()]
        yield changes("Deployment", {f"{_CONTAINER}/env": env})
    if gpu.runtime_class:
        yield pod({"runtimeClassName": gpu.runtime_class})


def _monitoring(fleet: Fleet) -> Iterator[Patch]:
    settings = fleet.kubernetes.monitoring
    yield changes("PrometheusRule", {"/spec/groups/0/rules": rules(fleet)})
    if settings.labels:
        for kind in ("ServiceMonitor", "PrometheusRule"):
            metadata = {"name": BASE_NAME, "labels": settings.labels}
            yield merged({"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": metadata})
    # The rule that the component adds to those of the base.
    peer = "/spec/ingress/2/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
    yield changes("NetworkPolicy", {peer: settings.namespace})


def _gateway(fleet: Fleet) -> Iterator[Patch]:
    settings = fleet.kubernetes.gateway
    assert settings
    parents = [{"name": settings.name, "namespace": settings.namespace}]
    for kind, host in (("HTTPRoute", settings.hostname), ("GRPCRoute", settings.grpc_host)):
        yield changes(kind, {"/spec/parentRefs": parents, "/spec/hostnames": [host]})
    peer = "/spec/ingress/0/from/2/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
    yield changes("NetworkPolicy", {peer: settings.namespace})


def _rollouts(fleet: Fleet) -> Iterator[Patch]:
    account = Names().account
    rule = {"op": "replace", "path": "/rules", "value": permissions(fleet)}
    yield {"target": {"kind": "Role", "name": account}, "patch": json.dumps([rule])}


def _proxy(fleet: Fleet) -> Iterator[Patch]:
    settings = fleet.kubernetes.proxy
    requests = {"cpu": settings.cpu, "memory": settings.memory}
    resources = {"requests": requests, "limits": {"memory": settings.memory}}
    yield pod({"initContainers": [{"name": "proxy", "image": settings.image, "resources": resources}]})


def of_kserve(fleet: Fleet) -> list[Patch]:
    """Return the patches of the InferenceService, which has the pods of the patched Deployment."""
    if "cpu" in fleet.kubernetes.components:
        return []
    return [changes("InferenceService", {"/spec/predictor/containers/0/resources/limits/cpu": _UNLIMITED})]
