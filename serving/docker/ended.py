"""Why a container ended, in words."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

_FROM_SIGNAL = 128
_MEANINGS = {
    126: "its command can't be run",
    127: "its command was not found; is the image one of TensorFlow Serving?",
    _FROM_SIGNAL + signal.SIGABRT: "it aborted; its last lines say why",
    _FROM_SIGNAL + signal.SIGILL: "it has instructions that this CPU hasn't; an image for another CPU is needed",
    _FROM_SIGNAL + signal.SIGSEGV: "it crashed, by a segmentation fault",
    _FROM_SIGNAL + signal.SIGKILL: "it was killed",
    _FROM_SIGNAL + signal.SIGTERM: "it was told to stop",
}


def out_of_memory(limit: int | None) -> str:
    """That the kernel ended a server which wanted more memory than its limit, in bytes."""
    if not limit:
        return "it ran out of memory: the machine has no more"
    return f"it ran out of memory: its limit is {limit >> 20} MiB, server.memory in models.yaml"


def reason(container: Container) -> str:
    """Why a container that doesn't run ended."""
    state = container.attrs["State"]
    if state.get("OOMKilled"):
        return out_of_memory(container.attrs["HostConfig"].get("Memory"))
    if state.get("Error"):
        return str(state["Error"])
    return meaning(state["ExitCode"])


def meaning(code: int) -> str:
    """What an exit code says."""
    said = _MEANINGS.get(code)
    return f"exit code {code}: {said}" if said else f"exit code {code}"


def restarts(client: DockerClient, container: Container, since: float, until: float) -> list[str]:
    """Why the server of a container ended between two times, once for each time that it did.

    The engine forgets that memory ran out when it starts a container again; its events don't.
    """
    events: Any = client.events(
        since=int(since),
        until=int(until) + 1,
        filters={"container": container.id, "event": ["die", "oom"]},
        decode=True,
    )
    found: list[str] = []
    oom = False
    for event in events:
        if event["Action"] == "oom":
            oom = True
        else:
            attributes: Mapping[str, str] = event["Actor"]["Attributes"]
            limit = container.attrs["HostConfig"].get("Memory")
            found.append(out_of_memory(limit) if oom else meaning(int(attributes.get("exitCode", 0))))
            oom = False
    return found
