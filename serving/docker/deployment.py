"""A fleet's server in a container that stays: `serve up`, `down`, `restart`, `status` and `logs`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.gpus import Gpu
from tfserving.serving import live, running
from tfserving.serving.config import container_config, grace_seconds
from tfserving.serving.docker import container as containers
from tfserving.serving.docker import daemon, ended, server
from tfserving.serving.engines import EngineError, Plan, UnreachableError, check
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.server_gpus import ServerGpu, container_gpus

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


def up(plan: Plan, wait: float, progress: Progress) -> dict[str, int]:
    """Start the server, or change it to `plan`; return the versions of the models when all are available.

    A container that already has these settings stays. Another one is replaced, after everything was checked. Raises
    EngineError when it can't be started or isn't ready within `wait` seconds; the new container is removed then.
    """
    with contextlib.closing(daemon.connect()) as client:
        image, config = server.prepare(client, plan, progress)
        fingerprint = containers.fingerprint(plan, config, image)
        old = _find(client, plan.fleet)
        if old and old.labels[f"{containers.PREFIX}.fingerprint"] == fingerprint and old.status == "running":
            progress.line(f"{old.name} is running already")
            note = dataclasses.replace(note_of(plan.fleet), names=plan.names, whole=plan.whole)
            live.apply(plan.fleet, note, wait, progress.line)
            running.note(plan.fleet, note)
            return server.ContainerServer(client, old, plan).wait_until_settled(wait, progress.update)
        if old:
            progress.line(f"Replacing {old.name}, which runs with other settings …")
            _remove(plan.fleet, old, progress)
        progress.line(f"Starting {containers.name_of(plan, 'up')} of {plan.fleet.server.image_name} …")
        return server.start(client, plan, image, config, "up", wait).wait_until_ready(wait, progress.update)


def down(fleet: Fleet, progress: Progress) -> bool:
    """Drain and remove the server and its state folder. Return whether there was one."""
    with contextlib.closing(daemon.connect()) as client:
        old = _find(client, fleet)
        if old is None:
            return False
        progress.line(f"Draining {old.name} …")
        _remove(fleet, old, progress)
        return True


def check_ports(plan: Plan) -> None:
    """Raise EngineError when a port is in use by something other than this fleet's server."""
    with contextlib.closing(daemon.connect()) as client:
        old = _find(client, plan.fleet)
    check(plan, taken=containers.ports_of(old) if old else frozenset())


def note_of(fleet: Fleet) -> running.Running:
    """Return the note of the server that is up. Raises EngineError when there is none."""
    with contextlib.closing(daemon.connect()) as client:
        container = _there(client, fleet)
    found = [one for one in running.running(fleet, exists) if one.container == container.id]
    if not found:
        raise EngineError(f"the container {container.name} was started by another user or with another XDG_STATE_HOME")
    return found[0]


def restart(plan: Plan, wait: float, progress: Progress) -> dict[str, int]:
    """Drain the server and start it again; return the versions of the models when all are available."""
    with contextlib.closing(daemon.connect()) as client:
        old = _there(client, plan.fleet)
        folder = running.config_folder(plan.fleet, "docker", plan.grpc_port)
        running.write_config(folder, container_config(plan.fleet, plan.names).files)
        progress.line(f"Restarting {old.name} …")
        with daemon.explained(f"{old.name} can't be restarted"):
            began = int(time.time())
            old.restart(timeout=grace_seconds(plan.fleet.server))
            _say_cut_off(old, began, progress)
        return server.ContainerServer(client, old, plan).wait_until_settled(wait, progress.update)


def logs(container_id: str, *, follow: bool, tail: int | None) -> Iterator[str]:
    """Yield the log of a container, running or not: the last `tail` lines, or all, and with `follow` new lines."""
    with contextlib.closing(daemon.connect()) as client, daemon.explained("the container's log can't be read"):
        container = client.containers.get(container_id)
        for chunk in container.logs(stream=True, follow=follow, tail="all" if tail is None else tail):
            yield chunk.decode(errors="replace")


def exists(container_id: str) -> bool:
    """Return whether the engine has a container with that id."""
    from docker.errors import NotFound

    with contextlib.closing(daemon.connect()) as client, daemon.explained("containers can't be listed"):
        try:
            client.containers.get(container_id)
        except NotFound:
            return False
        return True


def describe(container_id: str) -> dict[str, Any]:
    """Return the name, image, state and health of a container, and why its server ended before."""
    with contextlib.closing(daemon.connect()) as client, daemon.explained("the container can't be looked at"):
        container = client.containers.get(container_id)
        state = container.attrs["State"]
        since = datetime.fromisoformat(container.attrs["Created"][:19]).replace(tzinfo=timezone.utc).timestamp()
        return {
            "container": container.name,
            "image": container.attrs["Config"]["Labels"][f"{containers.PREFIX}.image"],
            "state": state["Status"],
            "health": state.get("Health", {}).get("Status"),
            "restarts": container.attrs["RestartCount"],
            "ended": ended.restarts(client, container, since, time.time()),
        }


def gpus_of(container_id: str, gpus: tuple[Gpu, ...]) -> tuple[ServerGpu, ...] | None:
    """Return the GPUs of a container; None if they aren't known. See `container_gpus`."""
    with contextlib.closing(daemon.connect()) as client, daemon.explained("the container can't be looked at"):
        return container_gpus(client.containers.get(container_id).attrs, gpus)


def _find(client: DockerClient, fleet: Fleet) -> Container | None:
    with daemon.explained("containers can't be listed"):
        found = containers.find(client, running.fleet_id(fleet), "up")
    return found[0] if found else None


def _there(client: DockerClient, fleet: Fleet) -> Container:
    found = _find(client, fleet)
    if found is None:
        raise UnreachableError(
            f"no server of {fleet.file} is up. Start one with `{typed('serve up', fleet=fleet.file)}`"
        )
    return found


def _remove(fleet: Fleet, container: Container, progress: Progress) -> None:
    with daemon.explained(f"{container.name} can't be removed"):
        began = int(time.time())
        container.stop(timeout=grace_seconds(fleet.server))
        _say_cut_off(container, began, progress)
        container.remove(force=True, v=True)
    # This removes its note.
    running.running(fleet, lambda found: found != container.id)


def _say_cut_off(container: Container, since: int, progress: Progress) -> None:
    """Report that a drain cut off requests, as in the container's log."""
    for line in container.logs(since=since).decode(errors="replace").splitlines():
        if line.startswith("Draining: ") and line.endswith("cut off."):
            progress.line(line)
