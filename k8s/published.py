"""Where pods copy published versions from: an object store, or with `trust` a volume that others may write to.

object store or claim ──► `tfserving.k8s.sync`, which accepts each copy ──► emptyDir of the pod ──► server
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfserving.k8s.names import BASE_NAME
from tfserving.k8s.patch import Patch, added, changes, merged, pod
from tfserving.k8s.trust_files import TRUST
from tfserving.serving.config import in_container
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.kubernetes import Kubernetes, in_bytes
from tfserving.serving.models_yaml.object_store import ObjectStore

# Where the containers that read an object store find their keys.
_SECRETS = "/secrets/store"
_LOGS = 256
# Not the server's user: models and clients can't read the keys of the store.
_USER = 10002
_MODELS = in_container().models
# The volume of published versions, which others may write to.
_PUBLISHED = "published"
# The ConfigMap of `trust`, and where containers find its files.
TRUST_MAP, TRUST_FOLDER = f"{BASE_NAME}-trust", "/config/trust"
TRUST_ARGUMENT = f"--trust={TRUST_FOLDER}"
TRUST_MOUNT = {"name": TRUST, "mountPath": TRUST_FOLDER, "readOnly": True}
TRUST_VOLUME = {"name": TRUST, "configMap": {"name": TRUST_MAP}}
_EKS_ROLE, _EKS_SKIP = "eks.amazonaws.com/role-arn", "eks.amazonaws.com~1skip-containers"
# Who gives pods without keys a role in their cloud, by the store's scheme: EKS Pod Identity; GKE's metadata server.
# https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
# https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity
_METADATA = {
    "s3": (("169.254.170.23", 80),),
    "gs": (("169.254.169.254", 80), ("169.254.169.252", 988)),
}


def volume(fleet: Fleet) -> Iterator[Patch]:
    """Mount the claim in the server, or with `trust` in the containers that copy accepted versions from it."""
    settings = fleet.kubernetes
    if fleet.trust is None:
        volume = claimed(settings.claim)
        yield pod({"volumes": [{**volume, "name": "models"}]})
        return
    usual = {name: field.default for name, field in ObjectStore.model_fields.items()}
    yield _synchronized(fleet, *published(settings), settings.copy_size, usual["newest"], usual["interval"])


def object_store(fleet: Fleet) -> Iterator[Patch]:
    """Set the containers that copy versions from the store, and let them connect to it."""
    store = fleet.kubernetes.object_store
    assert store
    yield _synchronized(fleet, *published(fleet.kubernetes), store.size, store.newest, store.interval)
    yield from _egress(store)
    if store.account_annotations:
        metadata = {"name": BASE_NAME, "annotations": store.account_annotations}
        yield merged({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        if _EKS_ROLE in store.account_annotations:
            # https://github.com/aws/amazon-eks-pod-identity-webhook: the others get no token.
            yield changes("Deployment", {f"/spec/template/metadata/annotations/{_EKS_SKIP}": "server,proxy"})


def _synchronized(
    fleet: Fleet, url: str, access: dict[str, Any], volumes: list[dict[str, Any]], size: str, newest: int, interval: int
) -> Patch:
    """Set the containers that copy versions. The server's has neither the keys of the store nor their volume."""
    common = _common(fleet, access, size)
    volumes.append({"name": "models", "emptyDir": {"sizeLimit": size}})
    args = [url, _MODELS, "--config=/config/models/models.config", f"--newest={newest}", _limit(size)]
    if fleet.trust:
        args.append(TRUST_ARGUMENT)
        volumes.append(TRUST_VOLUME)
    later = [*args, f"--interval={interval}", "--alive=/tmp/alive"]
    containers = [
        {"name": "sync-first", "args": [*args, "--once"], **common},
        {"name": "sync", "args": later, **common},
    ]
    return pod({"initContainers": containers, "volumes": volumes})


def copying_job(fleet: Fleet, paths: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the container that copies accepted versions for a Job, and the Job's volumes, that of the copies first.

    `paths` are those of the copies, separated by spaces.
    """
    store = fleet.kubernetes.object_store
    size = store.size if store else fleet.kubernetes.copy_size
    url, access, volumes = published(fleet.kubernetes)
    common, models = _common(fleet, access, size), {"name": "models", "emptyDir": {"sizeLimit": size}}
    mounts = [
        *common["volumeMounts"],
        {"name": "models", "mountPath": _MODELS},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
    ]
    disk = common["resources"]
    container = {
        **common,
        "name": "sync-first",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "tfserving.k8s.sync"],
        "args": [url, _MODELS, f"--paths={paths}", "--newest=0", _limit(size), TRUST_ARGUMENT, "--once"],
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi", **disk["requests"]},
            "limits": {"memory": "512Mi", **disk["limits"]},
        },
        "securityContext": {
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    return container, [models, *volumes, TRUST_VOLUME]


def _common(fleet: Fleet, access: dict[str, Any], size: str) -> dict[str, Any]:
    """Return what each container has that copies versions."""
    # The kubelet counts the volume as the pod's ephemeral storage.
    disk = {"ephemeral-storage": f"{(in_bytes(size) >> 20) + _LOGS}Mi"}
    made = {"image": fleet.kubernetes.toolkit_image, **access, "resources": {"requests": disk, "limits": disk}}
    return {**made, "volumeMounts": [*access.get("volumeMounts", []), TRUST_MOUNT]} if fleet.trust else made


def _limit(size: str) -> str:
    """Return the argument for the size of all versions. A pod whose volume exceeds its size is evicted."""
    return f"--max-bytes={in_bytes(size) * 95 // 100}"


def published(settings: Kubernetes) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Return the URL of the published versions, what a container that reads them has, and the volumes of its pod."""
    if settings.object_store:
        return settings.object_store.url.rstrip("/"), *store_access(settings.object_store)
    mount = {"name": _PUBLISHED, "mountPath": f"/{_PUBLISHED}", "readOnly": True}
    return f"file:///{_PUBLISHED}", {"volumeMounts": [mount]}, [claimed(settings.claim)]


def claimed(claim: str) -> dict[str, Any]:
    """Return a volume of a claim, for reading."""
    return {"name": _PUBLISHED, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


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
        yield changes("NetworkPolicy", {f"{rules}/1/to": peers})
    ports = [{"port": port, "protocol": "TCP"} for port in store.ports]
    yield changes("NetworkPolicy", {f"{rules}/1/ports": ports})
    for cidr in egress.dns:
        yield added("NetworkPolicy", f"{rules}/0/to/-", {"ipBlock": {"cidr": cidr}})
    for address, port in () if store.secret else _METADATA[store.scheme]:
        rule = {"to": [{"ipBlock": {"cidr": f"{address}/32"}}], "ports": [{"port": port, "protocol": "TCP"}]}
        yield added("NetworkPolicy", f"{rules}/-", rule)
