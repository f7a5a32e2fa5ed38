"""The services of a fleet, started and stopped with `docker compose`.

check everything, pull images ──► write files ──► compose up ──► READY: models available, all services up
                                                      │
                                                      └─► failed, and nothing ran before: compose down
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.progress import Progress
from tfserving.serving import kept, live, running
from tfserving.serving.compose.files import COMPOSE, files, images, ports, tls_files
from tfserving.serving.config import container_config, grace_seconds
from tfserving.serving.docker import container as containers
from tfserving.serving.docker import daemon
from tfserving.serving.docker.deployment import exists
from tfserving.serving.docker.image import find_or_pull
from tfserving.serving.docker.server import ContainerServer, last_lines
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.processes.ports import claim
from tfserving.serving.engines import EngineError, Plan, check
from tfserving.serving.health import HEALTH
from tfserving.serving.lint import Problem, tls_problems
from tfserving.serving.models_yaml.errors import suggested
from tfserving.serving.models_yaml.fleet import CANARY, STABLE, Fleet

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

ENGINE = "compose"
_PROJECT = "com.docker.compose.project"
_POLL_SECONDS = 0.2


def problems(plan: Plan) -> Iterator[Problem]:
    """Yield the problems of `compose:` in models.yaml."""
    compose = plan.fleet.compose
    taken: dict[int, str] = {plan.grpc_port: "gRPC", plan.rest_port: "REST"}
    for key, port in ports(plan).items():
        if port in taken:
            yield Problem(key, f"{taken[port]} uses port {port}, too. Choose another")
        taken[port] = key
    if not plan.fleet.server.monitoring:
        yield Problem("server.monitoring", "Prometheus needs the metrics page. Set it to true, or use `serve up`")
    if compose.envoy:
        yield from tls_problems(tls_files(compose.envoy), "compose.envoy")
        for name in compose.envoy.split:
            where = f"compose.envoy.split.{name}"
            if name not in plan.names:
                text = f"no model is called {name!r}; the server has {', '.join(plan.names)}"
                yield Problem(where, suggested(text, name, plan.names))
                continue
            for label in (CANARY, STABLE):
                if label not in plan.fleet.models[name].labels:
                    text = f"model {name!r} has no label {label!r}. Add it to models.{name}.labels"
                    yield Problem(where, text)


def command() -> list[str]:
    """Return the command of Compose: Docker's plugin, or docker-compose. Raises EngineError if there is neither."""
    for words in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0:
                return words
    raise EngineError("neither `docker compose` nor `docker-compose` is installed. Install Docker's Compose plugin")


def check_ports(plan: Plan) -> None:
    """Raise EngineError when a port is in use by something other than this fleet's services."""
    with contextlib.closing(daemon.connect()) as client:
        ours = {port for container in _containers(client, plan.fleet) for port in containers.ports_of(container)}
    check(plan, taken=frozenset(ours))
    for key, port in ports(plan).items():
        if port not in ours:
            try:
                claim(plan.host, port, key).close()
            except StartError as error:
                text = str(error).removeprefix("--").replace(f"another --{key}", f"another {key} in models.yaml")
                raise EngineError(text) from None


def up(plan: Plan, wait: float, progress: Progress) -> dict[str, int]:
    """Start the services, or change them to `plan`; return the versions of the models when all services are ready.

    Raises EngineError when that fails. If no service ran before, none is left then.
    """
    compose = command()
    fleet = plan.fleet
    with contextlib.closing(daemon.connect()) as client:
        for setting, image in images(plan).items():
            find_or_pull(client, image, progress, setting, by_digest=fleet.trust is not None)
        made = files(plan, wait)
        folder = running.config_folder(fleet, ENGINE, plan.grpc_port).parent
        noted = [server for server in running.running(fleet, exists) if server.engine == ENGINE]
        was_up = [server for server in noted if server.grpc_port == plan.grpc_port]
        if elsewhere := [server for server in noted if server not in was_up]:
            down = typed("compose down", fleet=fleet.file)
            raise EngineError(f"it is running with gRPC on port {elsewhere[0].grpc_port}. Stop it first: `{down}`")
        found = containers.find(client, running.fleet_id(fleet), "compose")
        # Without it, Compose replaces the container, which has another folder.
        same = was_up and was_up[0].copies == fleet.is_copied
        if same and found and found[0].status == "running":
            live.apply(fleet, dataclasses.replace(was_up[0], names=plan.names), wait, progress.line)
        for name, texts in made.items():
            if name != ".":
                running.write_config(folder / name, texts)
        running.write_file(folder / COMPOSE, made["."][COMPOSE])
        progress.line(f"Starting {', '.join(_services(folder))} …")
        try:
            _compose([*compose, *_project(fleet, folder), "up", "--detach", "--remove-orphans", "--no-build"])
            return _ready(client, plan, wait, progress)
        except BaseException:
            if not was_up:
                _down(compose, fleet, folder)
            raise


def down(fleet: Fleet, progress: Progress) -> bool:
    """Drain and remove all services, their network, volumes and files. Return whether there were any."""
    folders = sorted(running.fleet_folder(fleet).glob(f"{ENGINE}-*/{COMPOSE}"))
    if not folders:
        return False
    compose = command()
    for path in folders:
        progress.line(f"Stopping {', '.join(_services(path.parent))} …")
        _down(compose, fleet, path.parent)
    return True


def _ready(client: DockerClient, plan: Plan, wait: float, progress: Progress) -> dict[str, int]:
    deadline = time.monotonic() + wait
    found = containers.find(client, running.fleet_id(plan.fleet), "compose")
    if not found:
        raise EngineError("Compose started no server")
    note = running.Running(
        ENGINE,
        plan.host,
        plan.grpc_port,
        plan.rest_port,
        plan.names,
        plan.fleet.server.tls is not None,
        container=str(found[0].id),
        poll_seconds=container_config(plan.fleet, plan.names).poll_seconds,
        whole=plan.whole,
        copies=plan.fleet.is_copied,
    )
    running.note(plan.fleet, note)
    versions = ContainerServer(client, found[0], plan).wait_until_settled(wait, progress.update)
    compose = plan.fleet.compose
    for service, port, path in (
        ("prometheus", compose.prometheus_port, "/-/ready"),
        ("grafana", compose.grafana and compose.grafana_port, "/api/health"),
        ("envoy", compose.envoy and compose.envoy.port, None),
    ):
        while port and not _responds(plan.host, int(port), path):
            _check_it_runs(client, plan.fleet, service)
            if time.monotonic() > deadline:
                raise EngineError(f"{service} does not respond on port {port}. See `docker logs` of its container")
            time.sleep(_POLL_SECONDS)
    while compose.envoy and not _reached_through_envoy(client, plan.fleet):
        if time.monotonic() > deadline:
            raise EngineError("envoy does not reach the server. See `docker logs` of its container")
        time.sleep(_POLL_SECONDS)
    return versions


def _reached_through_envoy(client: DockerClient, fleet: Fleet) -> bool:
    """Return whether Envoy forwards to the current server, checked in its container, where no certificate is needed."""
    for container in _containers(client, fleet):
        if container.labels.get("com.docker.compose.service") == "envoy":
            with daemon.explained("envoy can't be checked"):
                done = container.exec_run(["bash", f"/config/{HEALTH}"])
            # An image without bash can't be checked. That Envoy listens must be enough then.
            return done.exit_code in (0, 126, 127)
    return False


def _responds(host: str, port: int, path: str | None) -> bool:
    """Return whether something listens there, and, with a path, responds with 200."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        if path is None:
            socket.create_connection((host, port), 2).close()
            return True
        connection = http.client.HTTPConnection(host, port, timeout=2)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
    return False


def _check_it_runs(client: DockerClient, fleet: Fleet, service: str) -> None:
    for container in _containers(client, fleet):
        if container.labels.get("com.docker.compose.service") == service and container.attrs["RestartCount"]:
            raise EngineError(f"{service} exits when it starts; its last lines:\n{last_lines(container)}")


def _containers(client: DockerClient, fleet: Fleet) -> list[Container]:
    with daemon.explained("containers can't be listed"):
        found: list[Container] = client.containers.list(all=True, filters={"label": f"{_PROJECT}={_name(fleet)}"})
    return found


def _name(fleet: Fleet) -> str:
    return f"serving-{running.fleet_id(fleet)}"


def _project(fleet: Fleet, folder: Path) -> list[str]:
    return ["--project-name", _name(fleet), "--file", str(folder / COMPOSE)]


def _services(folder: Path) -> list[str]:
    import yaml

    path = folder / COMPOSE
    try:
        return list(yaml.safe_load(kept.read(path))["services"])
    except (yaml.YAMLError, kept.KeptError, LookupError, TypeError, RecursionError) as error:
        raise EngineError(
            f"{path} was changed ({type(error).__name__}). Stop its services with `docker compose --project-name "
            f"serving-{folder.parent.name} down --volumes`, and remove the folder: `rm -r {shlex.quote(str(folder))}`"
        ) from None


def _down(compose: list[str], fleet: Fleet, folder: Path) -> None:
    words = ["down", "--volumes", "--remove-orphans", "--timeout", str(grace_seconds(fleet.server))]
    _compose([*compose, *_project(fleet, folder), *words])
    running.forget(fleet, ENGINE, int(folder.name.rpartition("-")[2]))


def _compose(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        printed = "\n".join(f"    {line}" for line in (done.stderr or done.stdout).strip().splitlines()[-15:])
        raise EngineError(f"Compose failed with exit code {done.returncode}:\n{printed}")
