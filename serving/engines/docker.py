"""The engine that runs the image tensorflow/serving, or another with the same ports, flags and folders."""

from __future__ import annotations

import contextlib
import platform

from tfserving.foundation.command.progress import Progress
from tfserving.serving.docker import container, daemon, server
from tfserving.serving.docker.image import find_or_pull
from tfserving.serving.engines import Plan, Server
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.running import fleet_id


class Docker:
    """TensorFlow Serving in a container."""

    name = "docker"

    def unusable(self) -> str | None:
        """Return why no Docker Engine can be used; None if one can."""
        return daemon.unusable()

    def prepare(self, fleet: Fleet, progress: Progress) -> None:
        """Pull the image if it isn't on this machine. Raises EngineError when it can't be pulled."""
        with contextlib.closing(daemon.connect()) as client:
            find_or_pull(client, fleet.server.image_name, progress, by_digest=fleet.trust is not None)

    def start(self, plan: Plan) -> Server:
        """Start a container that ends with this process."""
        client = daemon.connect()
        image, config = server.prepare(client, plan, Progress())
        # A container of that name was left by a process that was killed. Its ports are free.
        for left in container.find(client, fleet_id(plan.fleet), "run"):
            if left.name == container.name_of(plan, "run"):
                left.remove(force=True, v=True)
        return server.start(client, plan, image, config, "run", wait=180)


def automatic() -> str | None:
    """Return why `auto` doesn't use Docker, even if an engine runs; None if it does."""
    if platform.machine() in ("arm64", "aarch64"):
        return "TensorFlow Serving has no image for this machine's architecture"
    return None
