"""The component `argo-rollouts`: the steps and gates of a Rollout, from the keys `rollout` and `kubernetes`.

a new version or image ──► Rollout ──► a pod that no client reaches ──► Job: `tfserving verify`
                                   ──► weight by weight             ──► Prometheus: errors, latency
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from tfserving.k8s.configuration import labelled
from tfserving.k8s.figures import error_difference, latency_ratio
from tfserving.k8s.images import has_embedded
from tfserving.k8s.names import APP, BASE_NAME
from tfserving.k8s.patch import Patch
from tfserving.k8s.published import claimed, copying_job, store_access
from tfserving.serving.config import in_container
from tfserving.serving.devices import KUBERNETES, fleet_device
from tfserving.serving.models_yaml.fleet import STABLE, Fleet

VERIFY, ERRORS, LATENCY = f"{BASE_NAME}-verify", f"{BASE_NAME}-errors", f"{BASE_NAME}-latency"
_POD = "/spec/metrics/0/provider/job/spec/template/spec"
_STEPS = "/spec/strategy/canary/steps"
_NEW, _OLD, _SECONDS = "{{args.new}}", "{{args.old}}", "{{args.seconds}}"

_STORE = f"{VERIFY}-store"
_JOB = {f"{APP}/name": "serving-toolkit", f"{APP}/instance": BASE_NAME, f"{APP}/component": "verify"}
_STORE_POLICY: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": _STORE},
    "spec": {"podSelector": {"matchLabels": _JOB}, "policyTypes": ["Egress"], "egress": []},
}


def resources(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the objects that only some settings need."""
    made = _templates(fleet) if fleet.kubernetes.argo_rollouts.prometheus else []
    return [*made, _STORE_POLICY] if fleet.kubernetes.object_store else made


def replacements(fleet: Fleet) -> list[dict[str, Any]]:
    """Return what is copied between objects: the Job may connect where the servers' pods may."""
    if not fleet.kubernetes.object_store:
        return []
    source = {"kind": "NetworkPolicy", "name": BASE_NAME, "fieldPath": "spec.egress"}
    target = {"select": {"kind": "NetworkPolicy", "name": _STORE}, "fieldPaths": ["spec.egress"]}
    return [{"source": source, "targets": [target]}]


def _templates(fleet: Fleet) -> list[dict[str, Any]]:
    """The AnalysisTemplates that query Prometheus."""
    settings = fleet.rollout
    return [
        _template(ERRORS, fleet, error_difference(_NEW, _OLD, _SECONDS), 2 * settings.error_rate),
        _template(LATENCY, fleet, latency_ratio(_NEW, _OLD, _SECONDS, settings.slack_ms), settings.latency),
    ]


def patches(fleet: Fleet, models: tuple[str, ...]) -> list[Patch]:
    """Return the patches of the Rollout of these models, and of the Job that verifies them."""
    verified = f"{_STEPS}/0/experiment/analyses/0/args/1/value"
    changed = {
        "/spec/progressDeadlineSeconds": fleet.kubernetes.argo_rollouts.load_seconds,
        **({} if fleet.kubernetes.scales else {"/spec/replicas": fleet.kubernetes.replicas}),
        verified: " ".join(_versions(fleet, models)),
    }
    # Of the component's steps only the first one stays.
    first: list[dict[str, Any]] = [
        {"op": "move", "from": f"{_STEPS}/0", "path": f"{_STEPS}-first"},
        {"op": "replace", "path": _STEPS, "value": list(_steps(fleet))},
        {"op": "move", "from": f"{_STEPS}-first", "path": f"{_STEPS}/0"},
    ]
    servers = [{"ipBlock": {"cidr": cidr}} for cidr in fleet.kubernetes.argo_rollouts.dns]
    return [
        _patch("Rollout", BASE_NAME, [*_set(changed), *first]),
        _patch("AnalysisTemplate", VERIFY, _job(fleet)),
        *([_patch("NetworkPolicy", VERIFY, _each("/spec/egress/1/to", servers))] if servers else []),
    ]


def _steps(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """The steps after the verification."""
    settings = fleet.rollout
    if settings.manual:
        yield {"pause": {}}
    for weight in settings.weights:
        yield {"setWeight": weight}
        if weight < settings.weights[-1]:
            yield _watched(fleet, settings.window, ERRORS, LATENCY)
    if settings.bake:
        # No pod of the old revision is left to compare the latency with.
        yield _watched(fleet, settings.bake, ERRORS)


def _watched(fleet: Fleet, seconds: float, *gates: str) -> dict[str, Any]:
    """Wait, and then query Prometheus, if there is one."""
    whole = str(math.ceil(seconds))
    if fleet.kubernetes.argo_rollouts.prometheus is None:
        return {"pause": {"duration": f"{whole}s"}}
    hashes = [
        {"name": name, "valueFrom": {"podTemplateHashValue": which}}
        for name, which in (("new", "Latest"), ("old", "Stable"))
    ]
    args = [*hashes, {"name": "seconds", "value": whole}]
    return {"analysis": {"templates": [{"templateName": gate} for gate in gates], "args": args}}


def _template(name: str, fleet: Fleet, query: str, limit: float) -> dict[str, Any]:
    """An AnalysisTemplate of one query, whose first figure decides.

    There is none until the new pods got requests and Prometheus has read their pages twice, so the query is repeated.
    After `rollout.longest` seconds without one, the Rollout pauses.
    """
    known = "len(result) > 0 && !isNaN(result[0])"
    most = max(1, math.ceil(fleet.rollout.longest / max(1, fleet.rollout.window)))
    metric = {
        "name": name.removeprefix(f"{BASE_NAME}-"),
        "initialDelay": f"{_SECONDS}s",
        "interval": f"{_SECONDS}s",
        "consecutiveSuccessLimit": 1,
        "count": most,
        "inconclusiveLimit": most,
        "successCondition": f"{known} && result[0] <= {limit:g}",
        "failureCondition": f"{known} && result[0] > {limit:g}",
        "provider": {"prometheus": {"address": fleet.kubernetes.argo_rollouts.prometheus, "query": query}},
    }
    spec = {"args": [{"name": arg} for arg in ("new", "old", "seconds")], "metrics": [metric]}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": name},
        "spec": spec,
    }


def _versions(fleet: Fleet, models: tuple[str, ...]) -> Iterator[str]:
    """The place of each model's version `stable`, as the Job finds it."""
    store = fleet.kubernetes.object_store
    # With `trust`, a container copies accepted versions there.
    root = store.url.rstrip("/") if store and not fleet.trust else in_container().models
    known = labelled(fleet, models)
    for model in models:
        yield f"{root}/{model}/{known.models[model].labels[STABLE]}"


def _job(fleet: Fleet) -> list[dict[str, Any]]:
    """The changes of the Job: its image, its tolerances, and where it finds the golden requests."""
    settings, container = fleet.kubernetes, f"{_POD}/containers/0"
    changes = _set({f"{container}/image": settings.toolkit_image})
    device = fleet_device(fleet, KUBERNETES)
    if device and device != "cpu" and not has_embedded(fleet):
        # TensorFlow Serving doesn't name its device; the embedded server does.
        changes += [{"op": "add", "path": f"{container}/args/-", "value": word} for word in ("--device", device)]
    if not {"volume", "object-store"} & set(settings.components):
        return changes
    if fleet.trust:
        copying, volumes = copying_job(fleet, "{{args.versions}}")
        changes += _set({f"{_POD}/initContainers/0": copying}, "replace")
        return [*changes, *_set({f"{_POD}/volumes/0": volumes[0]}, "replace"), *_each(f"{_POD}/volumes", volumes[1:])]
    # The first volume has the files that a container copies from the image.
    places = ("initContainers", "containers/0/volumeMounts/0", "volumes/0")
    changes += [{"op": "remove", "path": f"{_POD}/{place}"} for place in places]
    if store := settings.object_store:
        access, volumes = store_access(store)
        changes += [*_each(f"{container}/env", access.get("env", []))]
        mounts = access.get("volumeMounts", [])
    else:
        volumes = [{**claimed(settings.claim), "name": "models"}]
        mounts = [{"name": "models", "mountPath": in_container().models, "readOnly": True}]
    return [*changes, *_each(f"{container}/volumeMounts", mounts), *_each(f"{_POD}/volumes", volumes)]


def _each(path: str, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"op": "add", "path": f"{path}/-", "value": value} for value in values]


def _set(values: dict[str, Any], op: str = "add") -> list[dict[str, Any]]:
    return [{"op": op, "path": path, "value": value} for path, value in values.items()]


def _patch(kind: str, name: str, operations: list[dict[str, Any]]) -> Patch:
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(operations)}
