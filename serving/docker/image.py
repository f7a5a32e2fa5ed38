"""The image that a container is made of: on this machine, or pulled."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfserving.serving.docker.daemon import told
from tfserving.serving.engines import EngineError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image


def find_or_pull(client: DockerClient, name: str, say: Callable[[str], None]) -> Image:
    """The image called `name`, by tag or digest: the one that is on this machine, or else pulled, with progress.

    Raises EngineError when there is none, or none for this machine's architecture.
    """
    from docker.errors import ImageNotFound

    with told(f"image {name} can't be looked up"), contextlib.suppress(ImageNotFound):
        return client.images.get(name)
    say(f"Pulling {name} …")
    with told(f"image {name} can't be pulled"):
        _show(client.api.pull(*_parts(name), stream=True, decode=True), name)
        return client.images.get(name)


def _parts(name: str) -> tuple[str, str]:
    """Repository, and tag or digest, `latest` when there is neither."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository.rpartition(":")[0] if ":" in repository.rpartition("/")[2] else repository, digest
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def _show(events: Iterator[Mapping[str, Any]], name: str) -> None:
    """Shows a pull's progress on a terminal; raises EngineError for the error that ends it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(name, total=None)
        layers: dict[str, tuple[int, int]] = {}
        for event in events:
            if error := event.get("error"):
                hint = ""
                if "no matching manifest" in error:
                    hint = "; TensorFlow Serving has no arm64 image, the embedded server's has: docs/docker.md"
                raise EngineError(f"image {name} can't be pulled: {error}{hint}")
            detail = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and detail.get("total"):
                layers[event["id"]] = (detail["current"], detail["total"])
                done, total = (sum(part) for part in zip(*layers.values(), strict=True))
                progress.update(task, completed=done, total=total)
