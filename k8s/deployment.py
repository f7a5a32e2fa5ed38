"""A fleet brought to a cluster, and taken away again.

models.yaml is checked ──► applied by the server's own rules ──► old configuration pruned ──► READY: every pod is
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from tfserving.k8s.configuration import cluster_models_config
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import INSTANCE, MANAGER, NAME, OURS, ROLLOUTS, STABLE, config_map, pods
from tfserving.k8s.patches import grace_seconds
from tfserving.k8s.pods import not_loaded, ready, refused, running, trouble, warned
from tfserving.k8s.rendering import objects, render
from tfserving.k8s.rollout.kept import kept_state, models_config_of
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.served import Served, configured

# All that the base and its components are made of; a cluster has the kinds of others when these are installed.
KINDS = (
    "deployments.apps",
    "services",
    "configmaps",
    "serviceaccounts",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
    "networkpolicies.networking.k8s.io",
    "servicemonitors.monitoring.coreos.com",
    "prometheusrules.monitoring.coreos.com",
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "inferenceservices.serving.kserve.io",
)
_POLL_SECONDS = 1.0
_ASK_SECONDS = 5.0
# A claim is bound within that time, where there is a volume for it.
_PATIENCE_SECONDS = 20.0


def server_side(manager: str = MANAGER) -> tuple[str, ...]:
    """How kubectl is to apply what it reads on stdin.

    Rollouts write their ConfigMap, too, and the autoscaler the replicas; what models.yaml says holds.
    """
    return ("--server-side", f"--field-manager={manager}", "--force-conflicts", "--filename=-")


def apply(
    fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl, wait: float, say: Callable[[str], None], *, dry: bool
) -> str:
    """Applies the manifests, and waits until every pod is ready; returns what kubectl said of each object.

    With `dry` the server checks all, and nothing changes. Raises RolloutError when a rollout is under way, when
    models.yaml would move a label that only a rollout may, when an object of such a name is somebody else's, and with
    the reason when a pod does not come up.
    """
    manifests = render(fleet, names, kubectl, _replicas(fleet, kubectl))
    made = objects(manifests)
    _check_kinds(made, kubectl)
    _check_owner(manifests, kubectl)
    _check_rollouts(kubectl)
    check_labels(fleet, names, kubectl)
    said = kubectl.run(
        "apply", *server_side(), "--validate=strict", *(["--dry-run=server"] if dry else []), input=manifests
    )
    if dry:
        return said
    wanted = _named(made)
    if ("InferenceService", NAME) in wanted:
        wait_until_served(kubectl, names, wait, say)
    else:
        wait_until_ready(kubectl, names, wait, say)
    return said + _prune(wanted, kubectl)


def difference(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> str:
    """What `apply` would change, as kubectl shows it; nothing when it would change nothing. Raises KubectlError."""
    manifests = render(fleet, names, kubectl, _replicas(fleet, kubectl))
    made = objects(manifests)
    _check_kinds(made, kubectl)
    removed = [
        f"{one['kind']} {one['metadata']['name']} would be removed\n" for one in _unwanted(_named(made), kubectl)
    ]
    return kubectl.run("diff", *server_side(), input=manifests, codes=(0, 1)) + "".join(removed)


def _named(made: list[Object]) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in made}


def draining(fleet: Fleet, kubectl: Kubectl) -> Kubectl:
    """The kubectl for a call that returns when pods have ended."""
    return kubectl.within(grace_seconds(fleet) + kubectl.seconds)


def delete(fleet: Fleet, kubectl: Kubectl) -> str:
    """Removes all that `apply` made and rollouts keep, and waits for pods to drain; returns what kubectl said."""
    kubectl = draining(fleet, kubectl)
    said = kubectl.run("delete", _kinds(kubectl), f"--selector={OURS}", "--ignore-not-found")
    said += kubectl.run("delete", "configmaps,leases", f"--selector={ROLLOUTS}", "--ignore-not-found")
    # Pods go with their Deployment, but not at the same time.
    return said + kubectl.run("delete", "pods", f"--selector={_PODS}", "--ignore-not-found")


def _replicas(fleet: Fleet, kubectl: Kubectl) -> int:
    """How many pods there are to be now: as many as the autoscaler has made, between the least and the most."""
    said, found = fleet.kubernetes, kubectl.get("deployment", NAME)
    live = found["spec"].get("replicas", said.replicas) if found else said.replicas
    return max(said.replicas, min(said.max_replicas, int(live)))


def _known(kubectl: Kubectl) -> set[str]:
    """The kinds that the cluster has."""
    return set(kubectl.run("api-resources", "--output=name").split())


def _kinds(kubectl: Kubectl) -> str:
    """Those of ours."""
    there = _known(kubectl)
    return ",".join(kind for kind in KINDS if kind in there)


def _check_kinds(made: list[Object], kubectl: Kubectl) -> None:
    there = _known(kubectl)
    needed = {"ServiceMonitor": "the Prometheus Operator", "PrometheusRule": "the Prometheus Operator"}
    needed |= {"HTTPRoute": "Gateway API", "GRPCRoute": "Gateway API", "InferenceService": "KServe"}
    for kind, who in needed.items():
        lacking = not any(name.startswith(f"{kind.lower()}s.") for name in there)
        if lacking and any(one["kind"] == kind for one in made):
            raise RolloutError(f"the cluster has no kind {kind}; {who} must be installed there")


def _check_owner(manifests: str, kubectl: Kubectl) -> None:
    """Names like `serving` may be taken; what others have made isn't overwritten."""
    text = kubectl.run("get", "--filename=-", "--ignore-not-found", "--output=json", input=manifests)
    if not text.strip():
        return
    found = json.loads(text)
    for one in found["items"] if found["kind"] == "List" else [found]:
        if (one["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") != MANAGER:
            where = f"{one['kind']} {one['metadata']['name']} of namespace {one['metadata']['namespace']}"
            raise RolloutError(f"{where} isn't of this toolkit; give the fleet a namespace of its own")


def _prune(wanted: set[tuple[str, str]], kubectl: Kubectl) -> str:
    """Removes what isn't wanted any more; returns what kubectl said."""
    said = ""
    for found in _unwanted(wanted, kubectl):
        kind = f"{found['kind']}.{_group(found)}"
        said += kubectl.run("delete", kind, found["metadata"]["name"], "--ignore-not-found")
    return said


def _unwanted(wanted: set[tuple[str, str]], kubectl: Kubectl) -> list[Object]:
    """What an earlier `apply` made and this one doesn't; what rollouts copied of it isn't of `apply`."""
    unwanted = []
    for found in kubectl.select(_kinds(kubectl), OURS, "--show-managed-fields"):
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


_PODS = f"{INSTANCE}={NAME},app.kubernetes.io/name=tensorflow-serving"


class _Look:
    """Looks at pods that aren't ready, and asks one of them now and then what it could not load."""

    def __init__(self, kubectl: Kubectl, names: tuple[str, ...], track: str = STABLE) -> None:
        self._kubectl, self._names = kubectl, names
        self._selector = pods(track)
        self._next_ask = time.monotonic() + _ASK_SECONDS
        self._seen: dict[str, float] = {}

    def at_pods(self) -> None:
        """Raises RolloutError when one of them will not come up by itself."""
        waiting = self._waiting()
        now = time.monotonic()
        for pod in waiting:
            since = self._seen.setdefault(pod["metadata"]["name"], now)
            if reason := trouble(pod, self._kubectl, passing=now - since > _PATIENCE_SECONDS):
                raise RolloutError(reason)
        if time.monotonic() > self._next_ask and (asked := [pod for pod in waiting if running(pod)]):
            self._next_ask = time.monotonic() + _ASK_SECONDS
            if reason := not_loaded(asked[0], self._names, self._kubectl):
                raise RolloutError(reason)

    def last(self) -> str:
        """What there is to say of the first that isn't ready, to go on with."""
        for pod in self._waiting():
            if said := trouble(pod, self._kubectl) or warned(pod, self._kubectl):
                return f"; {said}"
        return ""

    def _waiting(self) -> list[Object]:
        pods = self._kubectl.select("pods", self._selector)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not ready(pod)]


def wait_until_ready(
    kubectl: Kubectl,
    names: tuple[str, ...],
    wait: float,
    say: Callable[[str], None],
    *,
    name: str = NAME,
    track: str = STABLE,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Waits until a Deployment is what it is to be. Raises RolloutError with the reason when it isn't in time."""
    deadline, told, look = time.monotonic() + wait, "", _Look(kubectl, names, track)
    while True:
        found = kubectl.get("deployment", name)
        if found is None:
            raise RolloutError(f"there is no Deployment {name} any more")
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
        if reason := refused(found):
            raise RolloutError(reason)
        look.at_pods()
        if time.monotonic() > deadline:
            raise RolloutError(f"after {wait:g} s {pods}{look.last()} (--wait says how long)")
        pause(_POLL_SECONDS)


def wait_until_served(kubectl: Kubectl, names: tuple[str, ...], wait: float, say: Callable[[str], None]) -> None:
    """Waits until KServe has made the pods and calls its service ready. Raises RolloutError with the reason if not."""
    deadline, told, look = time.monotonic() + wait, "", _Look(kubectl, names)
    while True:
        found = kubectl.get("inferenceservice", NAME) or {}
        conditions = found.get("status", {}).get("conditions", [])
        if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
            return
        waits = [
            f"{one['type']}: {one.get('message') or one.get('reason')}" for one in conditions if one["status"] != "True"
        ]
        text = f"InferenceService {NAME} isn't ready: {'; '.join(waits) or 'KServe says nothing of it yet'}"
        if text != told:
            told = text
            say(f"{text} …")
        look.at_pods()
        if time.monotonic() > deadline:
            raise RolloutError(f"after {wait:g} s: {text}{look.last()}")
        time.sleep(_POLL_SECONDS)


def rollouts(kubectl: Kubectl) -> dict[str, State]:
    """The state of every model's last rollout, by its ConfigMap. Raises RolloutError when one can't be read."""
    return {
        str(found["metadata"]["name"]): state
        for found in kubectl.select("configmaps", ROLLOUTS)
        if (state := kept_state(found))
    }


def labels(kubectl: Kubectl) -> dict[str, dict[str, int]]:
    """The labels of each model that pods start with; of none when nothing is applied. Raises RolloutError."""
    return _labels(served(kubectl))


def served(kubectl: Kubectl) -> tuple[Served, ...]:
    """What pods start with, the canaries under names of their own; nothing when nothing is applied.

    Raises RolloutError.
    """
    found = kubectl.get("configmap", config_map(STABLE))
    return configured(models_config_of(found)) if found else ()


def _labels(served: Iterable[Served]) -> dict[str, dict[str, int]]:
    """All labels by model: those of its canary, too."""
    said: dict[str, dict[str, int]] = {}
    for one in served:
        said.setdefault(one.model, {}).update(one.labels)
    return said


def _check_rollouts(kubectl: Kubectl) -> None:
    for state in rollouts(kubectl).values():
        if not state.over:
            raise RolloutError(f"a rollout is under way: {state}; `rollout status {state.model}` says how far")


def check_labels(fleet: Fleet, names: tuple[str, ...], kubectl: Kubectl) -> None:
    """What pods serve is moved by rollouts, which tell them; pods read the ConfigMap when they start."""
    before = labels(kubectl)
    if not before:
        return
    after = _labels(configured(cluster_models_config(fleet, names)))
    if before.keys() != after.keys():
        raise RolloutError(
            f"the cluster serves {', '.join(sorted(before))}, models.yaml has {', '.join(sorted(after))}: pods that "
            "run would not know; `tfserving k8s delete` and `apply` start them anew"
        )
    for name, said in after.items():
        if said != before[name]:
            raise RolloutError(
                f"the cluster has {name} with the labels {before[name]}, models.yaml says {said}: "
                f"`tfserving k8s rollout start {name} VERSION --cluster` moves them"
            )
