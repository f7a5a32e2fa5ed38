"""Wait until the pods of a Deployment are ready, which may be that of an InferenceService."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tfserving.k8s import argo_status
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import STABLE, Names
from tfserving.k8s.pods import not_loaded, ready, refused, running, trouble, warned
from tfserving.k8s.rollout.target import RolloutError

_POLL_SECONDS = 1.0
_STATUS_SECONDS = 5.0
# Fields of an InferenceService's predictor that aren't those of a pod's spec.
_METADATA = ("annotations", "labels")
_NOT_OF_PODS = (*_METADATA, "deploymentStrategy", "maxReplicas", "minReplicas", "scaleMetric", "scaleTarget")
# Time for a claim to be bound, where a volume for it exists.
_PATIENCE_SECONDS = 20.0


# The Deployment controller sets them (https://kubernetes.io/docs/concepts/workloads/controllers/deployment/).
_REVISION, _HASH = "deployment.kubernetes.io/revision", "pod-template-hash"


class _Waiting:
    """The new pods that aren't ready: checks them, and reads the status of one of them every few seconds."""

    def __init__(
        self,
        kubectl: Kubectl,
        ours: Names,
        models: tuple[str, ...],
        track: str = STABLE,
        marks: tuple[str, str] = (_REVISION, _HASH),
    ) -> None:
        self._kubectl, self._models = kubectl, models
        self._revision, self._hash = marks
        self._selector = ours.pods(track)
        self._next_status = time.monotonic() + _STATUS_SECONDS
        self._seen: dict[str, float] = {}

    def check(self) -> None:
        """Raise RolloutError when a pod won't become ready by itself."""
        waiting = self._pods()
        now = time.monotonic()
        for pod in waiting:
            since = self._seen.setdefault(pod["metadata"]["name"], now)
            if reason := trouble(pod, self._kubectl, passing=now - since > _PATIENCE_SECONDS):
                raise RolloutError(reason)
        if time.monotonic() > self._next_status and (started := [pod for pod in waiting if running(pod)]):
            self._next_status = time.monotonic() + _STATUS_SECONDS
            if reason := not_loaded(started[0], self._models, self._kubectl):
                raise RolloutError(reason)

    def last(self) -> str:
        """Return the trouble of the first pod that isn't ready, to append to a sentence."""
        for pod in self._pods():
            if text := trouble(pod, self._kubectl) or warned(pod, self._kubectl):
                return f"; {text}"
        return ""

    def _pods(self) -> list[Object]:
        pods = self._kubectl.select("pods", self._selector)
        waiting = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not ready(pod)]
        if not waiting:
            return []
        # Pods of an earlier apply may never become ready: they are replaced.
        sets = [one["metadata"] for one in self._kubectl.select("replicasets", self._selector)]
        newest = max(sets, key=self._age, default=None)
        wanted = newest["labels"].get(self._hash) if newest else None
        return [pod for pod in waiting if wanted and pod["metadata"]["labels"].get(self._hash) == wanted]

    def _age(self, replicas: Object) -> tuple[int, str]:
        """Return what is largest for the newest set; those of Argo's experiments have no revision."""
        return int(replicas.get("annotations", {}).get(self._revision, 0)), str(replicas["creationTimestamp"])


def wait_until_ready(
    kubectl: Kubectl,
    ours: Names,
    models: tuple[str, ...],
    wait: float,
    log: Callable[[str], None],
    *,
    name: str | None = None,
    track: str = STABLE,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until all pods of the track's Deployment, or the one of that name, are new and ready.

    Raises RolloutError with the reason when time is up.
    """
    deadline, progress, waiting = time.monotonic() + wait, _Changes(log), _Waiting(kubectl, ours, models, track)
    name = name or ours.deployment(track)
    while True:
        found = kubectl.get("deployment", name)
        if found is None:
            raise RolloutError(f"the Deployment {name} was deleted")
        wanted, status = found["spec"]["replicas"], found.get("status", {})
        current = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        there = status.get("updatedReplicas", 0) if current else 0
        pods = f"{min(there, status.get('availableReplicas', 0))} of {wanted} pods are ready"
        if current and status.get("updatedReplicas") == status.get("availableReplicas") == wanted:
            if status.get("replicas") == wanted:
                return
            pods = f"{pods}, old ones terminate"
        progress(f"{pods} …")
        if reason := refused(found):
            raise RolloutError(reason)
        if current:
            waiting.check()
        if time.monotonic() > deadline:
            raise RolloutError(f"after {wait:g} s {pods}{waiting.last()}. --wait sets the time limit.")
        pause(_POLL_SECONDS)


def wait_until_served(
    kubectl: Kubectl, ours: Names, models: tuple[str, ...], wait: float, log: Callable[[str], None]
) -> None:
    """Wait until KServe serves with new pods only. Raises RolloutError with the reason when time is up."""
    deadline, progress = time.monotonic() + wait, _Changes(log)

    def until(reached: Callable[[Object], bool]) -> None:
        while not reached(found := kubectl.get("inferenceservice", ours.serving) or {}):
            text = f"InferenceService {ours.serving} isn't ready: {_unready(found)}"
            progress(f"{text} …")
            if time.monotonic() > deadline:
                raise RolloutError(f"after {wait:g} s: {text}. --wait sets the time limit.")
            time.sleep(_POLL_SECONDS)

    # Until then, the Deployment has the pods of before, and so has the status of the InferenceService.
    until(lambda service: _taken_over(service, ours, kubectl))
    left = max(0, round(deadline - time.monotonic()))
    wait_until_ready(kubectl, ours, models, left, log, name=ours.predictor)
    until(lambda service: _condition(service, "Ready") == "True")


def _taken_over(service: Object, ours: Names, kubectl: Kubectl) -> bool:
    """Return whether KServe's Deployment has the pods of the InferenceService: to set them would change nothing."""
    deployment = kubectl.get("deployment", ours.predictor)
    if not service or deployment is None:
        return False
    predictor = service["spec"]["predictor"]
    pods = {key: value for key, value in predictor.items() if key not in _NOT_OF_PODS}
    template = {"metadata": {key: predictor[key] for key in _METADATA}, "spec": pods}
    patch = f"--patch={json.dumps({'spec': {'template': template}})}"
    changed = kubectl.run("patch", "deployment", ours.predictor, "--dry-run=server", patch, "--output=json")
    return bool(json.loads(changed)["metadata"]["generation"] == deployment["metadata"]["generation"])


def _condition(service: Object, name: str) -> str:
    """Return the status of a condition: True, False or Unknown."""
    conditions = service.get("status", {}).get("conditions", [])
    return next((str(one["status"]) for one in conditions if one["type"] == name), "Unknown")


def _unready(service: Object) -> str:
    """Return why an InferenceService isn't ready, in KServe's words."""
    conditions = service.get("status", {}).get("conditions", [])
    # Not each of them is wanted: `Stopped` is False.
    waits = [one for one in conditions if one["status"] != "True" and (one.get("message") or one.get("reason"))]
    reasons = dict.fromkeys(str(one.get("message") or one["reason"]) for one in waits)
    return "; ".join(reasons) or "KServe reports no reason yet"


def wait_until_rolled_out(
    kubectl: Kubectl,
    ours: Names,
    models: tuple[str, ...],
    wait: float,
    log: Callable[[str], None],
    *,
    longest_step: float,
) -> None:
    """Wait until a Rollout is complete. Raises RolloutError when it is stopped, waits for a person, or time is up.

    The time begins anew with each step, which may take `longest_step` seconds by itself.
    """
    deadline, at, progress, name = 0.0, -1, _Changes(log), ours.serving
    degraded = time.monotonic()
    marks = (argo_status.REVISION, argo_status.HASH)
    waiting = [_Waiting(kubectl, ours, models, track, marks) for track in (STABLE, argo_status.VERIFIED)]
    while True:
        found = kubectl.get(argo_status.KIND, name)
        if found is None:
            raise RolloutError(f"the Rollout {name} was deleted")
        now = argo_status.progress_of(found)
        if now.step != at:
            deadline, at = time.monotonic() + wait + longest_step, now.step
        if now.phase == "Healthy":
            return
        if now.phase != "Degraded":
            degraded = time.monotonic()
        # Until the controller has read the templates, a Rollout that names them is invalid.
        elif now.aborted or time.monotonic() > degraded + _PATIENCE_SECONDS:
            verdict = argo_status.verdict(kubectl, ours, now)
            raise RolloutError(f"the Rollout {name} was stopped: {now.message}{verdict}")
        if now.waits:
            raise RolloutError(
                f"the Rollout {name} waits at {now}: {now.message}. Continue with `kubectl argo rollouts promote "
                f"{name}`, or stop it with `kubectl argo rollouts abort {name}`."
            )
        progress(f"{now} …")
        for one in waiting:
            one.check()
        if time.monotonic() > deadline:
            last = "".join(one.last() for one in waiting)
            raise RolloutError(f"after {wait:g} s the Rollout {name} is still at {now}{last}. --wait sets the limit.")
        time.sleep(_POLL_SECONDS)


class _Changes:
    """Prints a line when it differs from the one before."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log, self._text = log, ""

    def __call__(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self._log(text)
