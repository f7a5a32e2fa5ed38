"""The settings of models.yaml as kustomize patches for `k8s/base` and its components."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tfserving.foundation.model_server import PROGRAM
from tfserving.k8s.alerts import rules
from tfserving.k8s.configuration import checked_at_startup, set_of_models
from tfserving.k8s.images import has_embedded, server_image
from tfserving.k8s.names import BASE_NAME, STABLE, Names
from tfserving.k8s.rollout.in_cluster.account import permissions
from tfserving.serving.config import in_container
from tfserving.serving.gpu_environment import gpu_environment
from tfserving.serving.models_yaml.autoscaling import Autoscaling
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.kubernetes import in_bytes
from tfserving.serving.models_yaml.object_store import ObjectStore

_CONTAINER = "/spec/template/spec/containers/0"
# More than a node has. To a container without a limit, KServe gives that of its own settings, 1 CPU by default.
_UNLIMITED = "1k"
# Where the containers that read an object store find their keys.
_SECRETS = "/secrets/store"
_LOGS = 256
_EKS_ROLE, _EKS_SKIP = "eks.amazonaws.com/role-arn", "eks.amazonaws.com~1skip-containers"
# Who gives pods without keys a role in their cloud, by the store's scheme: EKS Pod Identity; GKE's metadata server.
# https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
# https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity
_METADATA = {
    "s3": (("169.254.170.23", 80),),
    "gs": (("169.254.169.254", 80), ("169.254.169.252", 988)),
}

Patch = dict[str, Any]


def patches(fleet: Fleet, names: tuple[str, ...], flags: list[str]) -> list[Patch]:
    """Return all patches, for a server of the models `names` with these flags."""
    settings = fleet.kubernetes
    made = [_changes("Deployment", _deployment(fleet, names, flags)), _scale(fleet)]
    if settings.clients == "labelled":
        pods = {"podSelector": {"matchLabels": {Names.of(fleet).client: "true"}}}
        made.append(_changes("NetworkPolicy", {"/spec/ingress/0/from/0": pods}, "replace"))
    components = {
        "cpu": _cpu,
        "gpu": _gpu,
        "volume": _volume,
        "object-store": _object_store,
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
        return _changes("HorizontalPodAutoscaler", values)
    metadata = {"name": BASE_NAME}
    return _merged(
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
    return {
        **({} if settings.scales else {"/spec/replicas": settings.replicas}),
        # A changed value replaces the pods: a running server can't be given another set of models.
        f"/spec/template/metadata/annotations/{own}": set_of_models(names),
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
    yield _changes("Deployment", {f"{_CONTAINER}/resources/limits/cpu": cpu})
    threads = {f"tensorflow_{which}_op_parallelism": cpu for which in ("intra", "inter")}
    for name, value in threads.items():
        if name not in fleet.server.flags:
            yield _added("Deployment", f"{_CONTAINER}/args/-", f"--{name}={value}")


def _gpu(fleet: Fleet) -> Iterator[Patch]:
    gpu, limits = fleet.kubernetes.gpu, f"{_CONTAINER}/resources/limits"
    # Those of the component are of a whole GPU, and of TensorFlow Serving.
    removed = [{"op": "remove", "path": f"{limits}/nvidia.com~1gpu"}, {"op": "remove", "path": f"{_CONTAINER}/env"}]
    yield _operations("Deployment", removed)
    yield _changes("Deployment", {f"{limits}/{gpu.resource.replace('/', '~1')}": str(gpu.count)})
    if variables := gpu_environment(fleet.server, embedded=has_embedded(fleet)):
        env = [{"name": name, "value": value} for name, value in variables.items()]
        yield _changes("Deployment", {f"{_CONTAINER}/env": env})
    if gpu.runtime_class:
        yield _pod({"runtimeClassName": gpu.runtime_class})


def _volume(fleet: Fleet) -> Iterator[Patch]:
    claim = {"claimName": fleet.kubernetes.claim, "readOnly": True}
    yield _pod({"volumes": [{"name": "models", "persistentVolumeClaim": claim}]})


def _object_store(fleet: Fleet) -> Iterator[Patch]:
    store = fleet.kubernetes.object_store
    assert store
    # Of each container that reads the store. The server's has neither keys nor their volume.
    access, volumes = store_access(store)
    common: dict[str, Any] = {"image": fleet.kubernetes.toolkit_image, **access}
    volumes.append({"name": "models", "emptyDir": {"sizeLimit": store.size}})
    # The kubelet counts the volume as the pod's ephemeral storage.
    disk = {"ephemeral-storage": f"{(in_bytes(store.size) >> 20) + _LOGS}Mi"}
    common["resources"] = {"requests": disk, "limits": disk}
    args = [store.url.rstrip("/"), "/models", "--config=/config/models/models.config", f"--newest={store.newest}"]
    # A pod whose volume exceeds its size is evicted, so the versions stay below it.
    args.append(f"--max-bytes={in_bytes(store.size) * 95 // 100}")
    later = [*args, f"--interval={store.interval}", "--alive=/tmp/alive"]
    containers = [
        {"name": "sync-first", "args": [*args, "--once"], **common},
        {"name": "sync", "args": later, **common},
    ]
    yield _pod({"initContainers": containers, "volumes": volumes})
    yield from _egress(store)
    if store.account_annotations:
        metadata = {"name": BASE_NAME, "annotations": store.account_annotations}
        yield _merged({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        if _EKS_ROLE in store.account_annotations:
            # https://github.com/aws/amazon-eks-pod-identity-webhook: the others get no token.
            yield _changes("Deployment", {f"/spec/template/metadata/annotations/{_EKS_SKIP}": "server,proxy"})


def store_access(store: ObjectStore) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a container that reads the store has, and the volumes of its pod."""
    env = {"AWS_ENDPOINT_URL": store.endpoint} if store.endpoint else {}
    common: dict[str, Any] = {}
    volumes: list[dict[str, Any]] = []
    if store.secret:
        env |= {store.key_variable: f"{_SECRETS}/{store.key_file}"}
        items = [{"key": store.key_file, "path": store.key_file}]
        volumes.append({"name": "store", "secret": {"secretName": store.secret, "items": items}})
        common["volumeMounts"] = [{"name": "store", "mountPath": _SECRETS, "readOnly": True}]
    if env:
        common["env"] = [{"name": name, "value": value} for name, value in env.items()]
    return common, volumes


def _egress(store: ObjectStore) -> Iterator[Patch]:
    """Where the network policy lets pods connect to: the store, DNS, and who gives the account its role."""
    egress, rules = store.egress, "/spec/egress"
    peers: list[dict[str, Any]] = [{"ipBlock": {"cidr": cidr}} for cidr in store.cidrs]
    if egress.namespace:
        labels = {"kubernetes.io/metadata.name": egress.namespace}
        peers.append({"namespaceSelector": {"matchLabels": labels}})
    if peers:
        yield _changes("NetworkPolicy", {f"{rules}/1/to": peers})
    ports = [{"port": port, "protocol": "TCP"} for port in store.ports]
    yield _changes("NetworkPolicy", {f"{rules}/1/ports": ports})
    for cidr in egress.dns:
        yield _added("NetworkPolicy", f"{rules}/0/to/-", {"ipBlock": {"cidr": cidr}})
    for address, port in () if store.secret else _METADATA[store.scheme]:
        rule = {"to": [{"ipBlock": {"cidr": f"{address}/32"}}], "ports": [{"port": port, "protocol": "TCP"}]}
        yield _added("NetworkPolicy", f"{rules}/-", rule)


def _monitoring(fleet: Fleet) -> Iterator[Patch]:
    settings = fleet.kubernetes.monitoring
    yield _changes("PrometheusRule", {"/spec/groups/0/rules": rules(fleet)})
    if settings.labels:
        for kind in ("ServiceMonitor", "PrometheusRule"):
            metadata = {"name": BASE_NAME, "labels": settings.labels}
            yield _merged({"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": metadata})
    # The rule that the component adds to those of the base.
    peer = "/spec/ingress/2/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name"
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
    operations = [{"op": "replace", "path": "/rules", "value": permissions(fleet)}]
    yield {"target": {"kind": "Role", "name": account}, "patch": json.dumps(operations)}


def _proxy(fleet: Fleet) -> Iterator[Patch]:
    settings = fleet.kubernetes.proxy
    requests = {"cpu": settings.cpu, "memory": settings.memory}
    resources = {"requests": requests, "limits": {"memory": settings.memory}}
    yield _pod({"initContainers": [{"name": "proxy", "image": settings.image, "resources": resources}]})


def of_kserve(fleet: Fleet) -> list[Patch]:
    """Return the patches of the InferenceService, which has the pods of the patched Deployment."""
    if "cpu" in fleet.kubernetes.components:
        return []
    return [_changes("InferenceService", {"/spec/predictor/containers/0/resources/limits/cpu": _UNLIMITED})]


def _changes(kind: str, values: dict[str, Any], op: str = "add") -> Patch:
    """Set values by their paths. For an item of a list, `op` must be `replace`."""
    return _operations(kind, [{"op": op, "path": path, "value": value} for path, value in values.items()])


def _added(kind: str, path: str, value: Any) -> Patch:
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
