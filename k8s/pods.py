"""Why a pod isn't ready, from the API, its events, its logs and the status of its server.

A reason that won't go away by itself ends the wait for the pod. One that may go away is reported when the time is up.
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
_NO_THREADS = "the node limits the processes of a pod too much: raise the kubelet's `podPidsLimit` (docs/kubernetes.md)"
# What the kubelet sends in place of the log of a container that it has removed:
# https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/kubelet/kuberuntime/kuberuntime_container.go
_NO_LOG = "unable to retrieve container logs"
_STATUS_SECONDS = 5.0
_CONTAINERS = ("server", "kserve-container")
GRPC_PORT = 8500
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
_NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclass(frozen=True)
class Trouble:
    """Why a pod isn't ready; the last lines of the log of `container` explain more.

    `passing` trouble may end by itself: a claim is bound, the cluster gets another node.
    """

    text: str
    container: str | None = None
    passing: bool = False


def ready(pod: Object) -> bool:
    """Return whether a pod gets requests."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def trouble(pod: Object, kubectl: Kubectl, *, passing: bool = True) -> str | None:
    """Return why a pod won't become ready by itself, with the last lines of a container that ended; else None.

    With `passing` False, trouble that may end by itself is ignored.
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
    """Return why a pod won't become ready by itself, from its status alone; None while it may.

    The reasons are those of the kubelet and the scheduler
    (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/).
    """
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason = condition.get("message", condition.get("reason"))
            return Trouble(f"no node fits pod {name}: {reason}", passing=True)
    if status.get("phase") == "Failed" and status.get("message"):
        return Trouble(f"pod {name}: {status.get('reason')}: {status['message']}")
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _NO_IMAGE:
            return Trouble(f"pod {name}: cannot pull image {container['image']}: {reason}: {message}")
        if reason in _NOT_MADE:
            return Trouble(f"pod {name}: cannot create the container {container['name']}: {message}")
        ended = container.get("lastState", {}).get("terminated") or container["state"].get("terminated")
        if ended and ended.get("reason") == "OOMKilled":
            return Trouble(f"pod {name} ran out of memory. Raise `kubernetes.memory` in models.yaml.")
        if ended and ended.get("exitCode") and container["restartCount"]:
            what = name if container["name"] in _CONTAINERS else f"{name}, container {container['name']},"
            return Trouble(f"pod {what} ended with {meaning(ended['exitCode'])}", container["name"])
    return None


def refused(deployment: Object) -> str | None:
    """Return why the API server rejects the pods of a Deployment (a quota, Pod Security); None when it doesn't."""
    for condition in deployment.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"the cluster rejects the pods: {condition.get('message', condition.get('reason'))}"
    return None


def running(pod: Object) -> bool:
    """Return whether the server in a pod runs, ready or not."""
    return any(
        one["name"] in _CONTAINERS and "running" in one["state"]
        for one in pod.get("status", {}).get("containerStatuses", [])
    )


def warned(pod: Object, kubectl: Kubectl) -> str | None:
    """Return the last warning event of a pod (a failed probe, a volume that can't be mounted); None without one."""
    name = pod["metadata"]["name"]
    with contextlib.suppress(KubectlError):
        found = kubectl.select("events", "", f"--field-selector=involvedObject.name={name},type=Warning")
        if found:
            last = max(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
            return f"pod {name}: {last['message'].strip()}"
    return None


@dataclass(frozen=True)
class Served:
    """What a pod serves of a model: its versions, and the version of each label."""

    versions: tuple[VersionStatus, ...]
    labels: Mapping[str, int]


def served(pod: Object, labels: Mapping[str, Iterable[str]], kubectl: Kubectl) -> dict[str, Served]:
    """Return what a pod serves of each model in `labels`, with the versions of these labels.

    Models that the server doesn't have are left out; so are all when it doesn't respond. The calls use gRPC, which the
    metrics page doesn't count.
    """
    by_name: dict[str, Served] = {}
    with (
        contextlib.suppress(KubectlError),
        kubectl.reach(pod, GRPC_PORT) as (address,),
        connect(f"grpc://{address}", timeout=_STATUS_SECONDS) as client,
    ):
        for name, wanted in labels.items():
            found: dict[str, int] = {}
            for label in wanted:
                # The status has no labels. The metadata of a label contains its version.
                with contextlib.suppress(ServingError):
                    found[label] = client.metadata(name, label=label).version
            with contextlib.suppress(ServingError):
                by_name[name] = Served(tuple(client.status(name)), found)
    return by_name


def not_loaded(pod: Object, names: Iterable[str], kubectl: Kubectl) -> str | None:
    """Return the error of a model that a pod could not load, from its status; None when there is none."""
    for name, found in served(pod, dict.fromkeys(names, ()), kubectl).items():
        for version in found.versions:
            if version.failed:
                return f"pod {pod['metadata']['name']}: model {name!r}: {version}"
    return None


def _printed(kubectl: Kubectl, pod: str, container: str) -> str:
    """Return the last lines that a container printed; '' when the cluster has no log of it.

    A container that ends just then is the previous one a moment later, whose log is read by another call.
    """
    for words in (["--previous"], [], ["--previous"]):
        with contextlib.suppress(KubectlError):
            printed = kubectl.run("logs", pod, f"--container={container}", f"--tail={READ_LINES}", *words)
            if printed.strip() and not printed.startswith(_NO_LOG):
                return printed
    return ""
