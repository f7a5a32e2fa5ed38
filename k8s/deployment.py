"""Apply a fleet to a cluster, and delete it.

models.yaml is checked ──► server-side apply ──► every pod is READY ──► objects of the old configuration are pruned
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tfserving.k8s import argo_status
from tfserving.k8s.configuration import cluster_models_config
from tfserving.k8s.hints import recommended
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import APP, MANAGER, STABLE, Names
from tfserving.k8s.patches import grace_seconds
from tfserving.k8s.permissions import listable
from tfserving.k8s.rendering import ARGO_ROLLOUTS, objects, render
from tfserving.k8s.rollout.kept import kept_state, models_config_of
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import RolloutError
from tfserving.k8s.scaling import keep_replicas, scale_up
from tfserving.k8s.waiting import wait_until_ready, wait_until_rolled_out, wait_until_served
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.served import Served, configured

# Kinds of other projects, which a cluster has when these are installed.
OTHERS = (
    # First, so that KServe doesn't replace what is deleted after it.
    "inferenceservices.serving.kserve.io",
    "servicemonitors.monitoring.coreos.com",
    "prometheusrules.monitoring.coreos.com",
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "rollouts.argoproj.io",
    "analysistemplates.argoproj.io",
    # Of Kubernetes, but `edit` doesn't cover them.
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
)
KINDS = (
    "deployments.apps",
    "services",
    "configmaps",
    "serviceaccounts",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
    "networkpolicies.networking.k8s.io",
)


def server_side(manager: str = MANAGER) -> tuple[str, ...]:
    """Return the options of `kubectl apply` for manifests on stdin.

    Rollouts also write the ConfigMap, and the autoscaler the replicas. On a conflict, models.yaml wins.
    """
    return ("--server-side", f"--field-manager={manager}", "--force-conflicts", "--filename=-")


@dataclass(frozen=True)
class Checked:
    """Manifests that the cluster has checked, as YAML; `names` are their models, `printed` is kubectl's output."""

    manifests: str
    names: tuple[str, ...]
    rollout: Rollout
    printed: str


def check(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> Checked:
    """Render the manifests and let the cluster check them; nothing changes.

    Raises RolloutError when a rollout is in progress, when models.yaml would move a label that only a rollout may move,
    or when an object of that name isn't the toolkit's; KubectlError when the cluster rejects a manifest.
    """
    manifests = render(fleet, names, kubectl)
    _check_kinds(objects(manifests), kubectl)
    _check_owner(manifests, kubectl)
    _check_rollouts(Names.of(fleet), kubectl)
    if ARGO_ROLLOUTS not in fleet.kubernetes.components:
        check_labels(fleet, names, kubectl)
    return Checked(manifests, names, fleet.rollout, _applied(manifests, kubectl, "--dry-run=server"))


def apply(checked: Checked, ours: Names, kubectl: Kubectl, wait: float, log: Callable[[str], None]) -> str:
    """Apply the manifests, and wait until every pod is ready; return kubectl's line for each object.

    Raises RolloutError with the reason when a pod doesn't become ready.
    """
    made = {(one["kind"], one["metadata"]["name"]): one for one in objects(checked.manifests)}
    pods, scaler = made.get(("Deployment", ours.serving)), made.get(("HorizontalPodAutoscaler", ours.serving))
    if pods:
        keep_replicas(kubectl, pods)
    printed = _applied(checked.manifests, kubectl)
    rolled_out = ("Rollout", ours.serving) in made
    if scaler:
        kind = argo_status.KIND if rolled_out else "deployment"
        scale_up(kubectl, ours.serving, scaler["spec"]["minReplicas"], kind)
    if pods:
        wait_until_ready(kubectl, ours, checked.names, wait, log)
    elif rolled_out:
        longest = checked.rollout.longest + checked.rollout.bake
        wait_until_rolled_out(kubectl, ours, checked.names, wait, log, longest_step=longest)
    else:
        wait_until_served(kubectl, ours, checked.names, wait, log)
    return printed + _prune(set(made), ours, kubectl) + _forget(checked.names, ours, kubectl)


def _applied(manifests: str, kubectl: Kubectl, *options: str) -> str:
    return kubectl.run("apply", *server_side(), "--validate=strict", *options, input=manifests)


def difference(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> str:
    """Return what `apply` would change, as kubectl prints it; '' without a difference. Raises KubectlError."""
    manifests = render(fleet, names, kubectl)
    made = objects(manifests)
    _check_kinds(made, kubectl)
    removed = [
        f"{one['kind']} {one['metadata']['name']} would be removed\n"
        for one in _unwanted(_named(made), Names.of(fleet), kubectl)
    ]
    return kubectl.run("diff", *server_side(), input=manifests, codes=(0, 1)) + "".join(removed)


def _named(made: list[Object]) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in made}


def check_deletion(fleet: Fleet, kubectl: Kubectl) -> None:
    """Raise KubectlError when the cluster can't be reached, and RolloutError when the pods are those of others.

    A release of Helm has the same pods. With every component there is an account, which its owner labels.
    """
    if found := kubectl.get("serviceaccount", Names.of(fleet).serving):
        _check_ours(found)


def draining(fleet: Fleet, kubectl: Kubectl) -> Kubectl:
    """Return a kubectl whose calls may take as long as pods need to terminate."""
    return kubectl.within(grace_seconds(fleet) + kubectl.seconds)


def delete(fleet: Fleet, kubectl: Kubectl) -> str:
    """Delete the objects of `apply` and of rollouts, and wait for pods to drain; return what kubectl printed."""
    ours, kubectl = Names.of(fleet), draining(fleet, kubectl)
    # Before the limit of the call, kubectl tells what it waits for.
    end = f"--timeout={0.9 * kubectl.seconds:.0f}s"
    printed = kubectl.run("delete", _kinds(kubectl), f"--selector={ours.applied}", "--ignore-not-found", end)
    printed += kubectl.run("delete", "jobs,configmaps,leases", f"--selector={ours.rollouts}", "--ignore-not-found")
    # Pods are deleted with their Deployment, but later.
    return printed + kubectl.run("delete", "pods", f"--selector={ours.all_pods}", "--ignore-not-found")


def _all_kinds(kubectl: Kubectl) -> set[str]:
    """Return the kinds that the cluster has."""
    return set(kubectl.run("api-resources", "--output=name").split())


def _kinds(kubectl: Kubectl) -> str:
    """Return all kinds of which objects may have been applied.

    Kinds of other projects are left out when the cluster doesn't have them, or the user may not list them: the roles
    of Kubernetes, such as `edit`, don't cover them.
    """
    there = _all_kinds(kubectl)
    return ",".join((*listable([kind for kind in OTHERS if kind in there], kubectl), *KINDS))


def _check_kinds(made: list[Object], kubectl: Kubectl) -> None:
    there = _all_kinds(kubectl)
    needed = {"ServiceMonitor": "the Prometheus Operator", "PrometheusRule": "the Prometheus Operator"}
    needed |= {"HTTPRoute": "Gateway API", "GRPCRoute": "Gateway API", "InferenceService": "KServe"}
    needed |= {"Rollout": "Argo Rollouts", "AnalysisTemplate": "Argo Rollouts"}
    for kind, project in needed.items():
        lacking = not any(name.startswith(f"{kind.lower()}s.") for name in there)
        if lacking and any(one["kind"] == kind for one in made):
            raise RolloutError(f"the cluster has no kind {kind}. Install {project} there.")
    scalers = [one for one in made if one["kind"] == "HorizontalPodAutoscaler"]
    if any(metric["type"] == "Pods" for one in scalers for metric in one["spec"]["metrics"]):
        groups = {one.partition("/")[0] for one in kubectl.run("api-versions").split()}
        if "custom.metrics.k8s.io" not in groups:
            raise RolloutError(
                "kubernetes.autoscaling: the cluster has no API custom.metrics.k8s.io, which requests_per_second and "
                "requests_in_flight need. Install the Prometheus adapter there, with the rules in docs/kubernetes.md."
            )


def _check_owner(manifests: str, kubectl: Kubectl) -> None:
    """Raise RolloutError for an object that the toolkit didn't create: names like `serving` may be taken."""
    text = kubectl.run("get", "--filename=-", "--ignore-not-found", "--output=json", input=manifests)
    if not text.strip():
        return
    found = json.loads(text)
    for one in found["items"] if found["kind"] == "List" else [found]:
        _check_ours(one)


def _check_ours(one: Object) -> None:
    """Raise RolloutError for an object that the toolkit didn't create."""
    if (one["metadata"].get("labels") or {}).get(f"{APP}/managed-by") != MANAGER:
        where = f"{one['kind']} {one['metadata']['name']} of namespace {one['metadata']['namespace']}"
        raise RolloutError(
            f"{where} was not created by this toolkit. Set another `kubernetes.namespace`, or a "
            "`kubernetes.name_prefix`."
        )


def _prune(wanted: set[tuple[str, str]], ours: Names, kubectl: Kubectl) -> str:
    """Delete the objects that are no longer wanted; return what kubectl printed."""
    printed = ""
    for found in _unwanted(wanted, ours, kubectl):
        kind = f"{found['kind']}.{_group(found)}"
        printed += kubectl.run("delete", kind, found["metadata"]["name"], "--ignore-not-found")
    return printed


def _forget(models: Iterable[str], ours: Names, kubectl: Kubectl) -> str:
    """Delete the state of the rollouts of models that are no longer served; return what kubectl printed."""
    gone = [name for name, state in rollouts(ours, kubectl).items() if state.model not in models]
    return kubectl.run("delete", "configmaps", *gone, "--ignore-not-found") if gone else ""


def _unwanted(wanted: set[tuple[str, str]], ours: Names, kubectl: Kubectl) -> list[Object]:
    """Return the objects of an earlier `apply` that are no longer wanted. Copies by rollouts aren't among them."""
    unwanted = []
    for found in kubectl.select(_kinds(kubectl), ours.applied, "--show-managed-fields"):
        metadata = found["metadata"]
        applied = any(
            one["manager"] == MANAGER and one["operation"] == "Apply" for one in metadata.get("managedFields", [])
        )
        if applied and (found["kind"], metadata["name"]) not in wanted:
            unwanted.append(found)
    return unwanted


def _group(found: Object) -> str:
    group, slash, version = found["apiVersion"].rpartition("/")
    return f"{version}.{group}" if slash else f"{version}."


def rollouts(ours: Names, kubectl: Kubectl) -> dict[str, State]:
    """Return the state of every model's last rollout, by ConfigMap. Raises RolloutError when one can't be read."""
    return {
        str(found["metadata"]["name"]): state
        for found in kubectl.select("configmaps", ours.rollouts)
        if (state := kept_state(found))
    }


def labels(ours: Names, kubectl: Kubectl) -> dict[str, dict[str, int]]:
    """Return the labels of each model that pods start with; {} when nothing is applied. Raises RolloutError."""
    return _labels(served(ours.config_map(STABLE), kubectl))


def served(config_map: str, kubectl: Kubectl) -> tuple[Served, ...]:
    """Return what pods with this ConfigMap serve when they start, canaries under their own names; () without it.

    Raises RolloutError.
    """
    found = kubectl.get("configmap", config_map)
    return configured(models_config_of(found)) if found else ()


def config_map_of(pod: Object) -> str:
    """Return the name of the ConfigMap with the models of a pod."""
    return next(str(one["configMap"]["name"]) for one in pod["spec"]["volumes"] if one["name"] == "models-config")


def _labels(served: Iterable[Served]) -> dict[str, dict[str, int]]:
    """Return all labels by model, including those of its canary."""
    found: dict[str, dict[str, int]] = {}
    for one in served:
        found.setdefault(one.model, {}).update(one.labels)
    return found


def _check_rollouts(ours: Names, kubectl: Kubectl) -> None:
    for state in rollouts(ours, kubectl).values():
        if not state.over:
            raise RolloutError(
                f"a rollout is in progress: {state}. Wait for its end, or take it back with "
                f"`{recommended(f'rollout abort {state.model} --cluster')}`."
            )


def check_labels(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> None:
    """Raise RolloutError when models.yaml moves a label: running pods learn of it from a rollout only."""
    before = labels(Names.of(fleet), kubectl)
    if not before:
        return
    if left := sorted((before.keys() & fleet.models.keys()) - set(names)):
        raise RolloutError(
            f"the cluster also serves {', '.join(left)}. Name all models, or none, for all in models.yaml. `apply` "
            "removes a model from the cluster when models.yaml no longer has it."
        )
    after = _labels(configured(cluster_models_config(fleet, names)))
    for name, wanted in after.items():
        if name in before and wanted != before[name]:
            raise RolloutError(
                f"labels of {name}: the cluster has {_shown(before[name])}, models.yaml has {_shown(wanted)}. "
                f"Move them with `{recommended(f'rollout start {name} --cluster')}`."
            )


def _shown(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label}={version}" for label, version in labels.items()) or "none"
