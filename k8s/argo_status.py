"""How far a Rollout of Argo Rollouts is, and why it stopped."""

from __future__ import annotations

from dataclasses import dataclass

from tfserving.foundation.last_words import READ_LINES, last_words
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.names import APP, Names, selector

KIND = "rollouts.argoproj.io"
# The controller sets them.
REVISION, HASH = "rollout.argoproj.io/revision", "rollouts-pod-template-hash"
# The track of the pod that gets the golden requests before clients reach the new version.
VERIFIED = "verify"


@dataclass(frozen=True)
class Progress:
    """The state of a Rollout: Argo's phase and message, and the step that it is at.

    `waits` when only a person continues it.
    """

    phase: str
    message: str
    step: int
    steps: int
    weight: int | None
    waits: bool
    available: int
    wanted: int

    @property
    def aborted(self) -> bool:
        """Whether a gate, or a person, has stopped the Rollout."""
        return self.phase == "Degraded" and "Aborted" in self.message

    def __str__(self) -> str:
        if self.step >= self.steps:
            return f"{self.available} of {self.wanted} pods are ready"
        share = f", {self.weight} % of the pods are new" if self.weight else ""
        return f"step {self.step + 1} of {self.steps}{share}"


def progress_of(rollout: Object) -> Progress:
    """Return the state of a Rollout; Progressing while the controller has yet to read its last change."""
    status, steps = rollout.get("status", {}), rollout["spec"]["strategy"]["canary"].get("steps", [])
    at = int(status.get("currentStepIndex", len(steps)))
    weights = [step["setWeight"] for step in steps[: at + 1] if "setWeight" in step]
    seen = status.get("observedGeneration") == str(rollout["metadata"]["generation"])
    phase = str(status.get("phase", "")) if seen else "Progressing"
    reasons = {one.get("reason") for one in status.get("pauseConditions") or []}
    timed = at < len(steps) and "duration" in (steps[at].get("pause") or {})
    waits = phase == "Paused" and not (timed and reasons == {"CanaryPauseStep"})
    return Progress(
        phase,
        str(status.get("message", "")),
        at,
        len(steps),
        weights[-1] if weights else None,
        waits,
        int(status.get("availableReplicas", 0)),
        int(rollout["spec"].get("replicas", 1)),
    )


def verdict(kubectl: Kubectl, ours: Names, progress: Progress) -> str:
    """Return the last lines of the Job that stopped a Rollout, to append to a sentence; '' when it wasn't one."""
    if "Experiment" not in progress.message:
        return ""
    jobs = selector({**ours.instance, f"{APP}/component": VERIFIED})
    failed = [pod for pod in kubectl.select("pods", jobs) if pod.get("status", {}).get("phase") == "Failed"]
    if not failed:
        return ""
    last = max(failed, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    printed = kubectl.run("logs", last["metadata"]["name"], f"--tail={READ_LINES}", "--container=verify")
    return f":\n{last_words(printed.splitlines())}"
