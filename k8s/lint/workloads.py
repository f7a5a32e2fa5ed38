"""Rules for the objects that make pods: how many, where, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfserving.k8s.kubectl import Object
from tfserving.k8s.lint.findings import Finding
from tfserving.k8s.lint.manifests import Manifests, Pods, named

_HOST = "kubernetes.io/hostname"
_PARTS = ("name", "instance", "version", "component", "part-of", "managed-by")
_LABEL = "app.kubernetes.io/"


def autoscaler(manifests: Manifests) -> Iterator[Finding]:
    """Yield autoscalers that the manifests work against, or that can't measure anything."""
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        for one in manifests.of(target["kind"]):
            if one["metadata"]["name"] != target["name"]:
                continue
            if "replicas" in one["spec"]:
                problem = f"{named(scaler)} sets it, and each apply of the manifests resets it"
                yield Finding("autoscaler", named(one), "spec.replicas", problem, "Remove the field")
            yield from _unmeasured(manifests, scaler, one)
        if scaler["spec"].get("minReplicas", 1) >= scaler["spec"]["maxReplicas"]:
            problem = "the autoscaler has no choice"
            yield Finding("autoscaler", named(scaler), "spec.maxReplicas", problem, "Raise it, or set spec.replicas")


def _unmeasured(manifests: Manifests, scaler: Object, target: Object) -> Iterator[Finding]:
    """Yield shares of a request that a container lacks."""
    for index, metric in enumerate(scaler["spec"].get("metrics") or ()):
        resource = metric.get("resource") or metric.get("containerResource") or {}
        if (resource.get("target") or {}).get("type") != "Utilization":
            continue
        for pods in manifests.pods:
            for container in pods.containers if pods.owner is target else ():
                counts = not container.once and metric.get("containerResource", {}).get("container") in (
                    None,
                    container.name,
                )
                if counts and resource["name"] not in _requests(container.content):
                    problem = f"container {container.name!r} of {named(target)} requests no {resource['name']}"
                    yield Finding("autoscaler", named(scaler), f"spec.metrics[{index}]", problem, "Add the request")


def _requests(container: dict[str, Any]) -> dict[str, Any]:
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _several(manifests: Manifests, pods: Pods) -> bool:
    """Return whether there may be several pods."""
    owner = pods.owner
    if owner["kind"] in ("Job", "CronJob", "DaemonSet", "Pod") or not pods.lasting:
        return False
    if owner["kind"] == "InferenceService":
        return bool(pods.spec.get("maxReplicas", 1) != 1)
    scaled = any(
        scaler["spec"]["scaleTargetRef"]["name"] == owner["metadata"]["name"]
        for scaler in manifests.of("HorizontalPodAutoscaler")
    )
    return scaled or bool(owner["spec"].get("replicas", 1) > 1)


def disruption_budget(manifests: Manifests) -> Iterator[Finding]:
    """Yield pods that drains of nodes may end all at once, and budgets that stop drains."""
    budgets = manifests.of("PodDisruptionBudget")
    for pods in manifests.pods:
        if _several(manifests, pods) and not any(pods.selected_by(one["spec"].get("selector")) for one in budgets):
            problem = "no PodDisruptionBudget selects its pods, so drains of nodes may end all of them at once"
            yield Finding("disruption-budget", pods.object, "", problem, "Add one with maxUnavailable: 1")
    for one in budgets:
        spec = one["spec"]
        if spec.get("maxUnavailable") in (0, "0%") or spec.get("minAvailable") == "100%":
            yield Finding("disruption-budget", named(one), "spec", "no node can be drained", "Allow one pod to end")
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            problem = "pods that are not ready stop the drain of their node"
            field = "spec.unhealthyPodEvictionPolicy"
            yield Finding("disruption-budget", named(one), field, problem, "Set it to AlwaysAllow")


def spread(manifests: Manifests) -> Iterator[Finding]:
    """Yield pods that may all be on one node, or in one zone."""
    for pods in manifests.pods:
        constraints = pods.spec.get("topologySpreadConstraints") or ()
        for index, one in enumerate(constraints):
            if not pods.selected_by(one.get("labelSelector")):
                field = f"{pods.field}.topologySpreadConstraints[{index}].labelSelector"
                yield Finding("spread", pods.object, field, "it does not select these pods", "Use their labels")
        if not _several(manifests, pods):
            continue
        keys = {one.get("topologyKey") for one in constraints} | set(_kept_apart(pods.spec))
        for key, what in ((_HOST, "node"), ("topology.kubernetes.io/zone", "zone")):
            if key not in keys:
                problem = (
                    f"all pods may run in the same {what}" if what == "zone" else f"all pods may run on one {what}"
                )
                field = f"{pods.field}.topologySpreadConstraints"
                yield Finding("spread", pods.object, field, problem, f"Add one for {key}")


def _kept_apart(spec: dict[str, Any]) -> Iterator[str]:
    """Yield the topology keys of pods' anti-affinity."""
    anti = (spec.get("affinity") or {}).get("podAntiAffinity") or {}
    for one in anti.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
        yield str(one.get("topologyKey"))
    for one in anti.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
        yield str(one["podAffinityTerm"].get("topologyKey"))


def grace_period(manifests: Manifests) -> Iterator[Finding]:
    """Yield pods that are killed while their hook still waits."""
    for pods in manifests.pods:
        grace = pods.spec.get("terminationGracePeriodSeconds", 30)
        for container in pods.containers:
            hook = (container.content.get("lifecycle") or {}).get("preStop") or {}
            seconds = (hook.get("sleep") or {}).get("seconds", 0)
            if seconds >= grace:
                field = f"{pods.field}.terminationGracePeriodSeconds"
                problem = f"got {grace}, and the preStop of container {container.name!r} sleeps {seconds} s"
                yield Finding("grace-period", pods.object, field, problem, "Raise it above that")


def service_account(manifests: Manifests) -> Iterator[Finding]:
    """Yield pods with a token that they don't need."""
    bound = {
        subject.get("name")
        for one in manifests.of("RoleBinding", "ClusterRoleBinding")
        for subject in one.get("subjects") or ()
    }
    for pods in manifests.pods:
        name = pods.spec.get("serviceAccountName", "default")
        if name == "default":
            field = f"{pods.field}.serviceAccountName"
            yield Finding("service-account", pods.object, field, "the pods use the account of all others", "Add one")
        if pods.spec.get("automountServiceAccountToken") is not False and name not in bound:
            field = f"{pods.field}.automountServiceAccountToken"
            problem = f"the pods get a token, and no Role of the manifests is bound to account {name!r}"
            yield Finding("service-account", pods.object, field, problem, "Set it to false")


def rbac(manifests: Manifests) -> Iterator[Finding]:
    """Yield permissions without bounds."""
    for one in manifests.of("Role", "ClusterRole"):
        for index, rule in enumerate(one.get("rules") or ()):
            for field in ("apiGroups", "resources", "verbs"):
                if "*" in (rule.get(field) or ()):
                    where = f"rules[{index}].{field}"
                    yield Finding("rbac", named(one), where, "the rule allows everything", "List what is needed")
            resources = {str(name).partition("/")[0] for name in rule.get("resources") or ()}
            if "secrets" in resources and not rule.get("resourceNames"):
                problem = "the rule includes every Secret of the namespace"
                yield Finding("rbac", named(one), f"rules[{index}]", problem, "Add resourceNames")
    for one in manifests.of("ClusterRoleBinding"):
        yield Finding("rbac", named(one), "", "the permissions are those of all namespaces", "Use a RoleBinding")


def labels(manifests: Manifests) -> Iterator[Finding]:
    """Yield objects without the labels that tools know: https://kubernetes.io/docs/reference/labels-annotations-taints/."""
    for one in manifests.objects:
        given = one["metadata"].get("labels") or {}
        if missing := [part for part in _PARTS if f"{_LABEL}{part}" not in given]:
            text = ", ".join(f"{_LABEL}{part}" for part in missing)
            yield Finding("labels", named(one), "metadata.labels", f"no {text}", "Add what is missing")


def duplicate(manifests: Manifests) -> Iterator[Finding]:
    """Yield objects that overwrite each other."""
    seen: set[tuple[str, str, str, str]] = set()
    for one in manifests.objects:
        metadata = one["metadata"]
        group = str(one.get("apiVersion", "")).rpartition("/")[0]
        key = (group, one.get("kind", ""), metadata.get("namespace", ""), metadata.get("name", ""))
        if key in seen:
            yield Finding("duplicate", named(one), "metadata.name", "two objects have this name", "Rename one")
        seen.add(key)
