"""What becomes of pods, in words."""

from __future__ import annotations

from k8s.kubectl import Kubectl, KubectlError, Object

_LAST_LINES = 5


def ready(pod: Object) -> bool:
    """Whether a pod gets requests."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def trouble(pod: Object, kubectl: Kubectl) -> str | None:
    """Why a pod does not come up by itself; None while it may still.

    Names of reasons are those of the kubelet and the scheduler
    (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/).
    """
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"pod {name} finds no node: {condition.get('message', condition.get('reason'))}"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
            return f"pod {name}: image {container['image']} can't be had: {reason}: {message}"
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return f"pod {name}: its container can't be made: {message}"
        ended = container.get("lastState", {}).get("terminated") or container["state"].get("terminated")
        if ended and ended.get("reason") == "OOMKilled":
            return f"pod {name} ran out of memory; `kubernetes.memory` gives it more"
        if ended and ended.get("exitCode") and container["restartCount"]:
            return f"pod {name} ends with exit code {ended['exitCode']}:\n{_last_lines(kubectl, name)}"
    return None


def _last_lines(kubectl: Kubectl, pod: str) -> str:
    for words in (["--previous"], []):
        try:
            said = kubectl.run("logs", pod, "--container=server", f"--tail={_LAST_LINES}", *words)
        except KubectlError:
            continue
        if said.strip():
            return "\n".join(f"    {line}" for line in said.strip().splitlines())
    return "    it printed nothing"
