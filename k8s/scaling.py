"""The number of pods, which the autoscaler sets, and not the manifests."""

from __future__ import annotations

import json

from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import MANAGER


def count(kubectl: Kubectl, deployment: str) -> int:
    """Return the number of pods that a Deployment has, or is to have soon; 0 when it doesn't exist."""
    found = kubectl.get("deployment", deployment)
    return int(found["spec"]["replicas"]) if found else 0


def scale_up(kubectl: Kubectl, deployment: str, replicas: int) -> None:
    """Scale a Deployment to at least `replicas`. A new one has 1, until the autoscaler looks at it."""
    if count(kubectl, deployment) < replicas:
        kubectl.run("scale", "deployment", deployment, f"--replicas={replicas}")


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
