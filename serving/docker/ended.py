"""Why a container ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfserving.serving.engines.exit_codes import meaning

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

# The signals with which `docker stop`, `restart` and `kill` end a container.
_ENDING = {str(int(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)}


def out_of_memory(limit: int | None) -> str:
    """Return the text for a server that the kernel ended at its memory limit, in bytes."""
    if not limit:
        return "it ran out of memory: the machine has no more memory"
    return f"it ran out of memory: its limit is {limit >> 20} MiB, server.memory in models.yaml"


def reason(container: Container) -> str:
    """Return why a stopped container ended."""
    state = container.attrs["State"]
    if state.get("OOMKilled"):
        return out_of_memory(container.attrs["HostConfig"].get("Memory"))
    if state.get("Error"):
        return str(state["Error"])
    return meaning(state["ExitCode"])


def restarts(client: DockerClient, container: Container, since: float, until: float) -> list[str]:
    """Return why the server of a container ended between two times, once for each end that no command caused.

    When the engine restarts a container it forgets that memory ran out, but its events still have it. An end by a
    command of the engine, such as a restart, isn't listed. An end by a signal from elsewhere is.
    """
    events: Any = client.events(
        since=int(since),
        until=int(until) + 1,
        filters={"container": container.id, "event": ["die", "oom", "kill"]},
        decode=True,
    )
    found: list[str] = []
    oom = stopped = False
    for event in events:
        attributes: Mapping[str, str] = event["Actor"]["Attributes"]
        match event["Action"]:
            case "oom":
                oom = True
            case "kill":
                stopped = stopped or attributes.get("signal") in _ENDING
            case "die":
                if oom:
                    found.append(out_of_memory(container.attrs["HostConfig"].get("Memory")))
                elif not stopped:
                    found.append(meaning(int(attributes.get("exitCode", 0))))
                oom = stopped = False
    return found
