"""A model server in a container: start, watch, stop.

create, start              every model is available, and the health check says so
(no container) ──────────► STARTING ────────────────────────────────────────────────────────► READY
│  it ends, or time runs out                                   │     ▲
▼                                                     it ends  ▼     │ its policy
removed, with the reason                                      ENDED, or restarted
▲                                                              │
└──────────────────── stop, remove ◄───────────────────────────┘
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from tfserving.foundation.command.progress import Progress
from tfserving.foundation.last_words import READ_LINES, last_words
from tfserving.serving import running
from tfserving.serving.config import ServerConfig, container_config, grace_seconds
from tfserving.serving.docker import container as containers
from tfserving.serving.docker import ended
from tfserving.serving.docker.daemon import explained
from tfserving.serving.docker.image import find_or_pull
from tfserving.serving.docker.image_names import version_in, version_of
from tfserving.serving.engines import EngineError, Plan, Report
from tfserving.serving.engines.exit_codes import as_subprocess
from tfserving.serving.lint import version_problems

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image
    from docker.types import DeviceRequest

_POLL_SECONDS = 0.2


class ContainerServer:
    """A server in a container that this process started or found. See `tfserving.serving.engines.Server`."""

    def __init__(self, client: DockerClient, container: Container, plan: Plan) -> None:
        self._client = client
        self._container = container
        self._plan = plan
        self._started = time.time()
        self._restarts = int(container.attrs.get("RestartCount", 0))

    def wait_until_ready(self, seconds: float, report: Report) -> dict[str, int]:
        """Wait until every model is available and the container is healthy; return the versions."""
        try:
            return self.wait_until_settled(seconds, report)
        except BaseException:
            self.stop()
            raise

    def wait_until_settled(self, seconds: float, report: Report) -> dict[str, int]:
        """Do the same as `wait_until_ready`, but don't stop a server that isn't ready in time."""
        # The clients' modules are imported while the server starts, and only if one is started.
        from tfserving.serving.engines.readiness import await_models

        deadline = time.monotonic() + seconds
        versions = await_models(self._plan, seconds, self._check_it_runs, self.last_lines, report)
        report("Waiting for the health check")
        while self._health() != "healthy":
            self._check_it_runs()
            if time.monotonic() > deadline:
                raise EngineError(f"every model is available, but the health check fails: {self._health_output()}")
            time.sleep(_POLL_SECONDS)
        return versions

    def wait(self) -> int:
        """Show what the server prints, wait until it exits by itself, and return its exit code."""
        threading.Thread(target=self._follow, args=(int(time.time()),), daemon=True).start()
        with explained("the container can't be watched"):
            code = int(self._container.wait(timeout=None)["StatusCode"])
            self._container.reload()
        print(f"The container ended: {ended.reason(self._container)}", file=sys.stderr, flush=True)
        return code

    def stop(self) -> int:
        """Drain, end and remove the container and its state folder. Return its exit code, negative for a signal."""
        from docker.errors import NotFound

        code = 0
        with explained("the container can't be stopped"), contextlib.suppress(NotFound):
            self._container.stop(timeout=grace_seconds(self._plan.fleet.server))
            code = int(self._container.wait()["StatusCode"])
            self._container.remove(force=True, v=True)
        running.forget(self._plan.fleet, "docker", self._plan.grpc_port)
        return as_subprocess(code)

    def kill(self) -> None:
        """End and remove the container and its state folder at once."""
        from docker.errors import NotFound

        with explained("the container can't be removed"), contextlib.suppress(NotFound):
            self._container.remove(force=True, v=True)
        running.forget(self._plan.fleet, "docker", self._plan.grpc_port)

    def last_lines(self) -> str:
        """Return the last lines that the server printed, indented."""
        return last_lines(self._container)

    def _check_it_runs(self) -> None:
        with explained("the container can't be looked at"):
            self._container.reload()
            state = self._container.attrs["State"]
            if state["Status"] in ("created", "running") and self._container.attrs["RestartCount"] <= self._restarts:
                return
            reasons = ended.restarts(self._client, self._container, self._started, time.time())
        raise EngineError(
            f"the container ended before every model was available: {(reasons or [ended.reason(self._container)])[0]}; "
            f"its last lines:\n{self.last_lines()}"
        )

    def _health(self) -> str:
        self._container.reload()
        return str(self._container.attrs["State"]["Health"]["Status"])

    def _health_output(self) -> str:
        log = self._container.attrs["State"]["Health"]["Log"]
        return str(log[-1]["Output"]).strip() if log else "it has not run yet"

    def _follow(self, since: int) -> None:
        # The log ends with the container, and so may the connection.
        with contextlib.suppress(Exception):
            for chunk in self._container.logs(stream=True, follow=True, since=since):
                sys.stderr.write(chunk.decode(errors="replace"))
                sys.stderr.flush()


def last_lines(container: Container) -> str:
    """Return the last lines that a container printed, indented."""
    with explained("the container's log can't be read"):
        text = container.logs(tail=READ_LINES).decode(errors="replace")
    return last_words(text.splitlines())


def prepare(client: DockerClient, plan: Plan, progress: Progress) -> tuple[Image, ServerConfig]:
    """Return the image, pulled if needed, and the configuration; print a warning if the releases differ."""
    name = plan.fleet.server.image_name
    image = find_or_pull(client, name, progress, by_digest=plan.fleet.trust is not None)
    # A version in the name was checked before.
    version = None if version_in(name) else version_of(name, image.labels or {})
    if version:
        for problem in version_problems(name, version, plan.fleet, plan.names):
            progress.line(str(problem))
    if requests := containers.gpu_requests(plan.fleet.server.gpus):
        _try_gpus(client, image, name, requests)
    return image, container_config(plan.fleet, plan.names)


def _try_gpus(client: DockerClient, image: Image, name: str, requests: list[DeviceRequest]) -> None:
    """Raise EngineError when the engine can't give a container these GPUs, which only a start shows.

    So no running container is stopped for one that can't start.
    """
    with explained(f"{name} can't be started with server.gpus"):
        container = client.containers.create(
            image,
            ["--version"],
            entrypoint=["tensorflow_model_server"],
            device_requests=requests,
            user=containers.user(),
            network_mode="none",
            labels={containers.PREFIX: "probe"},
        )
        try:
            container.start()
        finally:
            container.remove(force=True, v=True)


def start(
    client: DockerClient, plan: Plan, image: Image, config: ServerConfig, role: containers.Role, wait: float
) -> ContainerServer:
    """Start a container and return its server STARTING. Raises EngineError, and leaves nothing then."""
    folder = running.config_folder(plan.fleet, "docker", plan.grpc_port)
    running.write_config(folder, config.files)
    container = None
    try:
        with explained("the container can't be started"):
            arguments = containers.arguments(plan, config, role, wait, folder)
            arguments["name"] = containers.name_of(plan, role)
            arguments["labels"][f"{containers.PREFIX}.fingerprint"] = containers.fingerprint(plan, config, image)
            container = client.containers.create(**arguments)
            container.start()
    except BaseException:
        if container is not None:
            container.remove(force=True, v=True)
        running.forget(plan.fleet, "docker", plan.grpc_port)
        raise
    tls = plan.fleet.server.tls is not None
    note = running.Running(
        "docker",
        plan.host,
        plan.grpc_port,
        plan.rest_port,
        plan.names,
        tls,
        container=str(container.id),
        poll_seconds=config.poll_seconds,
        whole=plan.whole,
        copies=plan.fleet.is_copied,
    )
    running.note(plan.fleet, note)
    return ContainerServer(client, container, plan)
