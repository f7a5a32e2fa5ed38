"""A fleet brought to a cluster, and taken away again.

models.yaml is checked ──► applied by the server's own rules ──► old configuration pruned ──► READY: every pod is
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import yaml
from google.protobuf import text_format

from clients.messages import ModelServerConfig
from k8s.kubectl import Kubectl, Object
from k8s.pods import ready, trouble
from k8s.rendering import NAME, render, served
from k8s.rollout.state import read_state
from k8s.rollout.target import RolloutError
from serving.config import MODELS_CONFIG
from serving.fleet import Fleet

MANAGER = "tensorflow-serving-toolkit"
OURS = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/managed-by={MANAGER}"
KINDS = (
    "deployments.apps,services,configmaps,serviceaccounts,poddisruptionbudgets.policy,"
    "horizontalpodautoscalers.autoscaling,networkpolicies.networking.k8s.io"
)
_POLL_SECONDS = 1.0


def apply(
    fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl, wait: float, say: Callable[[str], None], *, dry: bool
) -> str:
    """Applies the manifests, and waits until every pod is ready; returns what kubectl said of each object.

    With `dry` the server checks all, and nothing changes. Raises RolloutError when a rollout is under way, when
    models.yaml would move a label that only a rollout may, and with the reason when a pod does not come up.
    """
    manifests = render(fleet, names, kubectl)
    _check_rollouts(kubectl)
    _check_labels(fleet, names, kubectl)
    words = ["apply", "--server-side", f"--field-manager={MANAGER}", "--force-conflicts", "--filename=-"]
    said = kubectl.run(*words, *(["--dry-run=server"] if dry else []), input=manifests)
    if dry:
        return said
    wanted = {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(manifests)}
    wait_until_ready(kubectl, wait, say)
    for found in kubectl.select("configmaps,networkpolicies", OURS):
        if (found["kind"], found["metadata"]["name"]) not in wanted:
            kubectl.run("delete", found["kind"].lower(), found["metadata"]["name"])
    return said


def delete(kubectl: Kubectl) -> str:
    """Removes all that `apply` made and rollouts keep, and waits for pods to drain; returns what kubectl said."""
    said = kubectl.run("delete", KINDS, f"--selector={OURS}", "--ignore-not-found")
    said += kubectl.run("delete", "configmaps,leases", f"--selector={_ROLLOUTS}", "--ignore-not-found")
    # Pods go with their Deployment, but not at the same time.
    return said + kubectl.run("delete", "pods", f"--selector={_PODS}", "--ignore-not-found")


_PODS = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/name=tensorflow-serving"
_ROLLOUTS = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=rollout"


def wait_until_ready(kubectl: Kubectl, wait: float, say: Callable[[str], None]) -> None:
    """Waits until the Deployment is what it is to be. Raises RolloutError with the reason when it isn't in time."""
    deadline, told = time.monotonic() + wait, ""
    while True:
        found = kubectl.get("deployment", NAME)
        if found is None:
            raise RolloutError(f"there is no Deployment {NAME} any more")
        wanted, status = found["spec"]["replicas"], found.get("status", {})
        current = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        there = status.get("updatedReplicas", 0) if current else 0
        pods = f"{min(there, status.get('availableReplicas', 0))} of {wanted} pods are ready"
        if current and status.get("updatedReplicas") == status.get("availableReplicas") == wanted:
            if status.get("replicas") == wanted:
                return
            pods = f"{pods}, old ones leave"
        if pods != told:
            told = pods
            say(f"{pods} …")
        for pod in kubectl.select("pods", f"app.kubernetes.io/instance={NAME}"):
            if not ready(pod) and (reason := trouble(pod, kubectl)):
                raise RolloutError(reason)
        if time.monotonic() > deadline:
            raise RolloutError(f"after {wait:g} s {pods}; `kubectl describe pods` says more (--wait says how long)")
        time.sleep(_POLL_SECONDS)


def rollouts(kubectl: Kubectl) -> list[Object]:
    """The state of every model's last rollout."""
    return [
        {"name": found["metadata"]["name"], **json.loads(found["data"]["state"])}
        for found in kubectl.select("configmaps", _ROLLOUTS)
        if found.get("data", {}).get("state")
    ]


def _check_rollouts(kubectl: Kubectl) -> None:
    for found in kubectl.select("configmaps", _ROLLOUTS):
        state = read_state(found["data"]["state"])
        if not state.over:
            raise RolloutError(f"a rollout is under way: {state}; `rollout status {state.model}` says how far")


def _check_labels(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> None:
    """What pods serve is moved by rollouts, which tell them; pods read the ConfigMap when they start."""
    found = kubectl.get("configmap", f"{NAME}-models")
    if found is None:
        return
    live = text_format.Parse(found["data"][MODELS_CONFIG], ModelServerConfig()).model_config_list.config
    wanted = text_format.Parse(served(fleet, names), ModelServerConfig()).model_config_list.config
    before = {model.name: dict(model.version_labels) for model in live}
    after = {model.name: dict(model.version_labels) for model in wanted}
    if before.keys() != after.keys():
        raise RolloutError(
            f"the cluster serves {', '.join(sorted(before))}, models.yaml has {', '.join(sorted(after))}: pods that "
            "run would not know; `python -m k8s delete` and `apply` start them anew"
        )
    for name, labels in after.items():
        if labels != before[name]:
            raise RolloutError(
                f"the cluster has {name} with the labels {before[name]}, models.yaml says {labels}: "
                f"`python -m k8s rollout start {name} VERSION --cluster` moves them"
            )
