"""The number of pods, which the autoscaler sets, and not the manifests."""

from __future__ import annotations

import json

from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import MANAGER


def count(kubectl: Kubectl, name: str, kind: str = "deployment") -> int:
    """Return the number of pods that a Deployment or a Rollout has, or is to have soon; 0 when it doesn't exist."""
    found = kubectl.get(kind, name)
    return int(found["spec"].get("replicas", 1)) if found else 0


def scale_up(kubectl: Kubectl, name: str, replicas: int, kind: str = "deployment") -> None:
    """Scale a Deployment or a Rollout to at least `replicas`. A new one has 1, until the autoscaler looks at it."""
    if count(kubectl, name, kind) < replicas:
        kubectl.run("scale", kind, name, f"--replicas={replicas}")


def hold(kubectl: Kubectl, autoscaler: str, *, held: bool) -> None:
    """Let an autoscaler remove no pods, or let it remove them again. It adds pods either way.

    The manifests leave this field out, so neither `apply` nor a GitOps engine resets it.
    """
    if kubectl.get("horizontalpodautoscaler", autoscaler) is not None:
        policy = "Disabled" if held else None
        change = {"spec": {"behavior": {"scaleDown": {"selectPolicy": policy}}}}
        kubectl.patch("horizontalpodautoscaler", autoscaler, change)


def keep_replicas(kubectl: Kubectl, made: Object) -> None:
    """Keep the number of pods of a Deployment when `made`, its next manifest, no longer contains it.

    The API server resets a field that nobody applies any more, so another field manager takes it over
    (https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership).
    """
    name = made["metadata"]["name"]
    text = kubectl.run("get", "deployment", name, "--ignore-not-found", "--output=json", "--show-managed-fields")
    if "replicas" in made["spec"] or not text.strip():
        return
    found = json.loads(text)
    applied = [one for one in found["metadata"]["managedFields"] if one["operation"] == "Apply"]
    if any(one["manager"] == MANAGER and "f:replicas" in one["fieldsV1"].get("f:spec", {}) for one in applied):
        spec = {"replicas": found["spec"]["replicas"]}
        kept = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
        words = ("--server-side", f"--field-manager={MANAGER}-scale", "--validate=false", "--filename=-")
        kubectl.run("apply", *words, input=json.dumps(kept))
