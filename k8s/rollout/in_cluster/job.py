"""The Job that runs a rollout: the toolkit's image, with the models of the servers' pods."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tfserving.k8s.images import server_image
from tfserving.k8s.kubectl import Object
from tfserving.k8s.names import APP, MANAGER, Names
from tfserving.k8s.published import TRUST_ARGUMENT, TRUST_FOLDER
from tfserving.k8s.rollout.in_cluster.files import FILES, MODELS, MODELS_YAML, trusted
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.models_yaml.fleet import Fleet

CONTAINER = "rollout"
# A manual rollout may wait for a day. It is resumed by starting it again.
_LONGEST_SECONDS = 86_400
# The log stays for a day.
_KEPT_SECONDS = 86_400
# A pod that is killed is replaced, after 10, 20, 40, … seconds.
_REPLACED = 6
# The rollout was rolled back, or can't run: another pod would end in the same way. Other codes may pass.
_FINAL_CODES = [1, 2]
_USER = 10001
_SYNC = "sync-first"
# Where the servers' pods have the ConfigMap of their models.
_MODELS_CONFIG = "/config/models"
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def job(fleet: Fleet, model: str, manifests: Sequence[Object], wait: float) -> Object:
    """Return the Job that resumes the stored rollout of `model`. `manifests` are the rendered objects of the fleet."""
    ours, settings = Names.of(fleet), fleet.kubernetes
    labels = {
        **ours.rollout_labels,
        **settings.labels,
        f"{APP}/name": "serving-toolkit",
        f"{APP}/managed-by": MANAGER,
        ours.rolls_out: "true",
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": ours.job(model), "namespace": settings.namespace, "labels": labels},
        "spec": {
            "backoffLimit": _REPLACED,
            "activeDeadlineSeconds": _LONGEST_SECONDS,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "podFailurePolicy": {
                "rules": [
                    # A drained node, for example.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": _FINAL_CODES},
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": _pod(fleet, model, manifests, wait)},
        },
    }


def _pod(fleet: Fleet, model: str, manifests: Sequence[Object], wait: float) -> dict[str, Any]:
    ours = Names.of(fleet)
    volumes, first = _models(fleet, model, manifests)
    words = ["rollout", "resume", model, "--cluster", "--direct", "--no-labels"]
    options = ["--fleet", f"{FILES}/{MODELS_YAML}", "--wait", f"{wait:g}"]
    items = [{"key": name, "path": name} for name in (MODELS_YAML, MODELS_CONFIG, *trusted(fleet))]
    return {
        "serviceAccountName": ours.account,
        "automountServiceAccountToken": True,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": first} if first else {}),
        "containers": [
            {
                "name": CONTAINER,
                "image": fleet.kubernetes.toolkit_image,
                "imagePullPolicy": "IfNotPresent",
                "args": [*words, *options],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
                    "limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"},
                },
                "securityContext": _RESTRICTED,
                "volumeMounts": [
                    {"name": "fleet", "mountPath": FILES, "readOnly": True},
                    {"name": "models", "mountPath": MODELS, "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
                ],
            }
        ],
        "volumes": [
            {"name": "fleet", "configMap": {"name": ours.rollout(model), "items": items}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
            *volumes,
        ],
    }


def _models(fleet: Fleet, model: str, manifests: Sequence[Object]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes and the containers that bring the models: those of the servers, or a copy of their image's."""
    spec = _server_spec(manifests)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in spec.get("initContainers", []):
        if container["name"] == _SYNC:
            sync = _sync(container)
            names = [mount["name"] for mount in sync["volumeMounts"] if mount["name"] in volumes]
            return [volumes[name] for name in names], [sync]
    if "models" in volumes:
        return [volumes["models"]], []
    copied = {
        "name": "models",
        "image": server_image(fleet),
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-r", f"{MODELS}/{model}", "/copied/"],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _RESTRICTED,
        "volumeMounts": [{"name": "models", "mountPath": "/copied"}],
    }
    return [{"name": "models", "emptyDir": {}}], [copied]


def _server_spec(manifests: Sequence[Object]) -> dict[str, Any]:
    for one in manifests:
        if one["kind"] == "Deployment":
            return dict(one["spec"]["template"]["spec"])
    (service,) = (one for one in manifests if one["kind"] == "InferenceService")
    return dict(service["spec"]["predictor"])


def _sync(container: dict[str, Any]) -> dict[str, Any]:
    """Return the container that copies the served versions, for both versions of the rollout."""
    changed = copy.deepcopy(container)
    given = [word for word in changed["args"] if not word.startswith(("--config=", "--newest=", "--trust="))]
    trust = [f"--trust={FILES}"] if TRUST_ARGUMENT in changed["args"] else []
    changed["args"] = [*given, f"--config={FILES}/{MODELS_CONFIG}", "--newest=0", *trust]
    # Its own files, since the ConfigMaps of the last `apply` may be others.
    others = [mount for mount in changed["volumeMounts"] if mount["mountPath"] not in (_MODELS_CONFIG, TRUST_FOLDER)]
    changed["volumeMounts"] = [*others, {"name": "fleet", "mountPath": FILES, "readOnly": True}]
    return changed
