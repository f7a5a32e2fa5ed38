"""What becomes of pods, in words: from what the API says of them, their events, their logs, and their own status pages.

A pod that can't come up by itself ends the waiting for it; what may still come right is told when time is up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tfserving.clients import connect
from tfserving.clients.errors import ServingError
from tfserving.clients.results import VersionStatus
from tfserving.foundation.last_words import READ_LINES, last_words
from tfserving.k8s.kubectl import Kubectl, KubectlError, Object
from tfserving.serving.engines.exit_codes import meaning

REST_PORT = 8501
_NO_THREAD = "creation via pthread_create() failed"
_NO_THREADS = "the node's limit of processes is too low: the kubelet's `podPidsLimit` (docs/kubernetes.md)"
_ASK_SECONDS = 5.0
_CONTAINERS = ("server", "kserve-container")
GRPC_PORT = 8500
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
_NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not come up; the last lines of `container` say more.

    What is `passing` may end by itself: a claim is bound, a cluster gets another node.
    """

    text: str
    container: str | None = None
    passing: bool = False


def ready(pod: Object) -> bool:
    """Whether a pod gets requests."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def trouble(pod: Object, kubectl: Kubectl, *, passing: bool = True) -> str | None:
    """Why a pod does not come up by itself, with the last lines of what has ended; None while it may still.

    Without `passing` what may end by itself is none.
    """
    found = found_in(pod)
    if found is None or (found.passing and not passing):
        return None
    if found.container is None:
        return found.text
    printed = _printed(kubectl, pod["metadata"]["name"], found.container)
    hint = f"; {_NO_THREADS}" if _NO_THREAD in printed else ""
    return f"{found.text}{hint}:\n{last_words(printed.splitlines())}"


def found_in(pod: Object) -> Trouble | None:
    """Why a pod does not come up by itself, as far as the API knows; None while it may still.

    Names of reasons are those of the kubelet and the scheduler
    (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/).
    """
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            said = condition.get("message", condition.get("reason"))
            return Trouble(f"pod {name} finds no node: {said}", passing=True)
    if status.get("phase") == "Failed" and status.get("message"):
        return Trouble(f"pod {name}: {status.get('reason')}: {status['message']}")
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _NO_IMAGE:
            return Trouble(f"pod {name}: image {container['image']} can't be had: {reason}: {message}")
        if reason in _NOT_MADE:
            return Trouble(f"pod {name}: its container can't be made: {message}")
        ended = container.get("lastState", {}).get("terminated") or container["state"].get("terminated")
        if ended and ended.get("reason") == "OOMKilled":
            return Trouble(f"pod {name} ran out of memory; `kubernetes.memory` gives it more")
        if ended and ended.get("exitCode") and container["restartCount"]:
            what = name if container["name"] in _CONTAINERS else f"{name}, container {container['name']},"
            return Trouble(f"pod {what} ends with {meaning(ended['exitCode'])}", container["name"])
    return None


def refused(deployment: Object) -> str | None:
    """Why the API server makes no pods of a Deployment: a quota, Pod Security; None when it does."""
    for condition in deployment.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"no pod can be made: {condition.get('message', condition.get('reason'))}"
    return None


def running(pod: Object) -> bool:
    """Whether the server in a pod runs, ready or not."""
    return any(
        one["name"] in _CONTAINERS and "running" in one["state"]
        for one in pod.get("status", {}).get("containerStatuses", [])
    )


def warned(pod: Object, kubectl: Kubectl) -> str | None:
    """The last warning about a pod: a probe that failed, a volume that can't be mounted; None when there is none."""
    name = pod["metadata"]["name"]
    with contextlib.suppress(KubectlError):
        found = kubectl.select("events", "", f"--field-selector=involvedObject.name={name},type=Warning")
        if found:
            last = max(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
            return f"pod {name}: {last['message'].strip()}"
    return None


@dataclass(frozen=True)
class Served:
    """What a pod's server has of a model: its versions, and by label which one that is."""

    versions: tuple[VersionStatus, ...]
    labels: Mapping[str, int]


def served(pod: Object, labels: Mapping[str, Iterable[str]], kubectl: Kubectl) -> dict[str, Served]:
    """What a pod's server serves of models, and of their labels that are asked for.

    Nothing of those that the server doesn't know, or when it doesn't answer. Over gRPC, which its metrics page doesn't
    count.
    """
    said: dict[str, Served] = {}
    with (
        contextlib.suppress(KubectlError),
        kubectl.forward(pod["metadata"]["name"], GRPC_PORT) as (port,),
        connect(f"grpc://127.0.0.1:{port}", timeout=_ASK_SECONDS) as client,
    ):
        for name, asked in labels.items():
            found: dict[str, int] = {}
            for label in asked:
                # The status says nothing of labels; the metadata that a label has says its version.
                with contextlib.suppress(ServingError):
                    found[label] = client.metadata(name, label=label).version
            with contextlib.suppress(ServingError):
                said[name] = Served(tuple(client.status(name)), found)
    return said


def not_loaded(pod: Object, names: Iterable[str], kubectl: Kubectl) -> str | None:
    """The error of a model that a pod's server could not load, as its status says it; None when there is none."""
    for name, found in served(pod, dict.fromkeys(names, ()), kubectl).items():
        for version in found.versions:
            if version.failed:
                return f"pod {pod['metadata']['name']}: model {name!r}: {version}"
    return None


def _printed(kubectl: Kubectl, pod: str, container: str) -> str:
    """What a container that ended printed last; nothing when that isn't kept."""
    for words in (["--previous"], []):
        with contextlib.suppress(KubectlError):
            said = kubectl.run("logs", pod, f"--container={container}", f"--tail={READ_LINES}", *words)
            if said.strip():
                return said
    return ""
