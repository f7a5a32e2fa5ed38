"""The log of a rollout's Job, pod after pod, until the Job ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from tfserving.k8s.kubectl import Kubectl, KubectlError, Object, UnreachableError
from tfserving.k8s.pods import found_in
from tfserving.k8s.rollout.in_cluster.job import CONTAINER
from tfserving.k8s.rollout.target import RolloutError

_POLL_SECONDS = 2.0
# A cluster that can't be reached for so long ends the following.
_PATIENCE_SECONDS = 300.0
# The first part of what the rollout itself prints: its own time.
_CLOCK = len("12:34:56")


def ended(job: Object) -> bool:
    """Return whether a Job is over."""
    return _condition(job, "Complete") or _condition(job, "Failed")


def follow(name: str, kubectl: Kubectl, print_line: Callable[[str], None]) -> None:
    """Print the log of the Job `name` until it ends.

    Each read is a call of its own, so that nothing is lost when a connection ends. Raises RolloutError when its pod
    can't start, or somebody deletes the Job, and KubectlError when the cluster can't be reached for long.
    """
    log, last = _Log(kubectl, print_line), time.monotonic()
    while True:
        try:
            job = kubectl.get("job", name)
            pods = kubectl.select("pods", f"batch.kubernetes.io/job-name={name}")
            for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
                log.read(pod)
            last = time.monotonic()
        except UnreachableError:
            if time.monotonic() - last > _PATIENCE_SECONDS:
                raise
            job = {}
        if job is None:
            raise RolloutError(f"the Job {name} was deleted")
        if ended(job):
            return
        time.sleep(_POLL_SECONDS)


class _Log:
    """The lines that were printed so far, up to a time for each pod."""

    def __init__(self, kubectl: Kubectl, print_line: Callable[[str], None]) -> None:
        self._kubectl, self._print = kubectl, print_line
        self._last: dict[str, str] = {}
        self._complete: set[str] = set()

    def read(self, pod: Object) -> None:
        """Print the new lines of a pod. Raises RolloutError when it can't start."""
        name = pod["metadata"]["name"]
        status = {one["name"]: one["state"] for one in pod.get("status", {}).get("containerStatuses", [])}
        state = status.get(CONTAINER, {})
        if "running" in state or ("terminated" in state and name not in self._complete):
            self._lines(name)
            if "terminated" in state:
                self._complete.add(name)
        elif (found := found_in(pod)) and not found.passing:
            raise RolloutError(found.text)

    def _lines(self, pod: str) -> None:
        last = self._last.get(pod, "")
        since = [f"--since-time={last}"] if last else []
        try:
            text = self._kubectl.run("logs", pod, f"--container={CONTAINER}", "--timestamps", *since)
        except UnreachableError:
            raise
        except KubectlError:
            # The pod was deleted in the meantime.
            return
        for line in text.splitlines():
            at, _, printed = line.partition(" ")
            # `since` is exact to the second.
            if at > last:
                self._last[pod] = at
                self._print(_here(at, printed))


def _here(at: str, printed: str) -> str:
    """Return a line with its time as it is on this machine."""
    if printed[2:3] != ":" or printed[_CLOCK : _CLOCK + 2] != "  ":
        return printed
    clock = datetime.fromisoformat(f"{at[:19]}+00:00").astimezone()
    return f"{clock:%H:%M:%S}{printed[_CLOCK:]}"


def _condition(job: Object, kind: str) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)
