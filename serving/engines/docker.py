"""The engine that runs the tensorflow/serving image, or another with its ports, flags and folders."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable

import click

from tfserving.serving.docker import container, daemon, server
from tfserving.serving.docker.image import find_or_pull
from tfserving.serving.engines import Plan, Server
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import fleet_id


class Docker:
    """TensorFlow Serving in a container."""

    name = "docker"

    def unusable(self) -> str | None:
        """Why there is no Docker Engine to use; None when there is one."""
        return daemon.unusable()

    def prepare(self, fleet: Fleet, say: Callable[[str], None]) -> None:
        """Pulls the image when it isn't on this machine. Raises EngineError when it can't be pulled."""
        with contextlib.closing(daemon.connect()) as client:
            find_or_pull(client, fleet.server.image_name, say)

    def start(self, plan: Plan) -> Server:
        """Starts a container that ends with this process."""
        client = daemon.connect()
        image, config = server.prepare(client, plan, lambda text: click.echo(text, err=True))
        # One of that name was left by a process that was killed: its ports are free.
        for left in container.find(client, fleet_id(plan.fleet), "run"):
            if left.name == container.name_of(plan, "run"):
                left.remove(force=True, v=True)
        return server.start(client, plan, image, config, "run", wait=180)


def automatic() -> str | None:
    """Why the default doesn't take Docker, even where there is an engine; None when it does."""
    if platform.machine() in ("arm64", "aarch64"):
        return "TensorFlow Serving has no image for this machine's architecture"
    return None
