"""A fleet's server that stays: `up`, `down`, `status`, `logs`, `restart`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tfserving.serving import live, running
from tfserving.serving.config import container_config, grace_seconds
from tfserving.serving.docker import container as containers
from tfserving.serving.docker import daemon, ended, server
from tfserving.serving.engines import EngineError, Plan, check
from tfserving.serving.models_yaml.fleet import Fleet

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

Say = Callable[[str], None]


def up(plan: Plan, wait: float, say: Say) -> dict[str, int]:
    """Brings the server up, or to what `plan` says; returns the models' versions once all are available.

    A container that fits already is left alone; one that doesn't is replaced, after everything was checked.
    Raises EngineError when it can't be started or isn't ready within `wait` seconds; nothing is left of it then.
    """
    with contextlib.closing(daemon.connect()) as client:
        image, config = server.prepare(client, plan, say)
        fingerprint = containers.fingerprint(plan, config, image)
        old = _find(client, plan.fleet)
        if old and old.labels[f"{containers.PREFIX}.fingerprint"] == fingerprint and old.status == "running":
            say(f"{old.name} is up already")
            note = dataclasses.replace(note_of(plan.fleet), names=plan.names, whole=plan.whole)
            live.apply(plan.fleet, note, wait, say)
            running.note(plan.fleet, note)
            return server.ContainerServer(client, old, plan).wait_until_settled(wait)
        if old:
            say(f"Replacing {old.name}, which runs with other settings …")
            _remove(plan.fleet, old, say)
        say(f"Starting {containers.name_of(plan, 'up')} of {plan.fleet.server.image_name} …")
        return server.start(client, plan, image, config, "up", wait).wait_until_ready(wait)


def down(fleet: Fleet, say: Say) -> bool:
    """Drains and removes the server, and all that was kept of it; whether there was one."""
    with contextlib.closing(daemon.connect()) as client:
        old = _find(client, fleet)
        if old is None:
            return False
        say(f"Draining {old.name} …")
        _remove(fleet, old, say)
        return True


def check_ports(plan: Plan) -> None:
    """Raises EngineError when a port is taken by something other than this fleet's server."""
    with contextlib.closing(daemon.connect()) as client:
        old = _find(client, plan.fleet)
    check(plan, taken=containers.ports_of(old) if old else frozenset())


def note_of(fleet: Fleet) -> running.Running:
    """What is noted of the server that is up. Raises EngineError when there is none."""
    with contextlib.closing(daemon.connect()) as client:
        container = _there(client, fleet)
    found = [one for one in running.running(fleet, exists) if one.container == container.id]
    if not found:
        raise EngineError(f"{container.name} was not started by this user; `docker` shows it")
    return found[0]


def restart(plan: Plan, wait: float, say: Say) -> dict[str, int]:
    """Drains the server and starts it again; returns the models' versions once all are available."""
    with contextlib.closing(daemon.connect()) as client:
        old = _there(client, plan.fleet)
        folder = running.config_folder(plan.fleet, "docker", plan.grpc_port)
        running.write_config(folder, container_config(plan.fleet, plan.names).files)
        say(f"Restarting {old.name} …")
        with daemon.told(f"{old.name} can't be restarted"):
            began = int(time.time())
            old.restart(timeout=grace_seconds(plan.fleet.server))
            _say_cut_off(old, began, say)
        return server.ContainerServer(client, old, plan).wait_until_settled(wait)


def logs(container_id: str, *, follow: bool, tail: int | None) -> Iterator[str]:
    """What a container prints, running or not: the last `tail` lines, or all, and with `follow` what comes."""
    with contextlib.closing(daemon.connect()) as client, daemon.told("the container's log can't be read"):
        container = client.containers.get(container_id)
        for chunk in container.logs(stream=True, follow=follow, tail="all" if tail is None else tail):
            yield chunk.decode(errors="replace")


def exists(container_id: str) -> bool:
    """Whether the engine has a container of that id."""
    from docker.errors import NotFound

    with contextlib.closing(daemon.connect()) as client, daemon.told("containers can't be listed"):
        try:
            client.containers.get(container_id)
        except NotFound:
            return False
        return True


def describe(container_id: str) -> dict[str, Any]:
    """What the engine knows of a container: name, image, state, health, and why its server ended before."""
    with contextlib.closing(daemon.connect()) as client, daemon.told("the container can't be looked at"):
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


def _find(client: DockerClient, fleet: Fleet) -> Container | None:
    with daemon.told("containers can't be listed"):
        found = containers.find(client, running.fleet_id(fleet), "up")
    return found[0] if found else None


def _there(client: DockerClient, fleet: Fleet) -> Container:
    found = _find(client, fleet)
    if found is None:
        raise EngineError(f"no server of {fleet.file} is up; `tfserving serve up` starts one")
    return found


def _remove(fleet: Fleet, container: Container, say: Say) -> None:
    with daemon.told(f"{container.name} can't be removed"):
        began = int(time.time())
        container.stop(timeout=grace_seconds(fleet.server))
        _say_cut_off(container, began, say)
        container.remove(force=True, v=True)
    # Its note goes with it.
    running.running(fleet, lambda found: found != container.id)


def _say_cut_off(container: Container, since: int, say: Say) -> None:
    """Reports that a drain cut requests off, as the container's log has it."""
    for line in container.logs(since=since).decode(errors="replace").splitlines():
        if line.startswith("Draining: ") and line.endswith("cut off."):
            say(line)
