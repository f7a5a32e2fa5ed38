"""The image that a container is made of: on this machine, or pulled."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfserving.serving.docker.daemon import told
from tfserving.serving.docker.image_names import version_in
from tfserving.serving.engines import EngineError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image


# Newest first: https://github.com/tensorflow/serving/releases. Their images often come long after TensorFlow.
RELEASES = ("2.21.0", "2.20.0", "2.19.1", "2.19.0", "2.18.1", "2.18.0", "2.17.1", "2.17.0", "2.16.1", "2.15.1")
# How long an engine may report nothing while it pulls.
_SILENCE_SECONDS = 60
# For one release, and for all.
_LOOK_UP_SECONDS, _LOOK_UPS_SECONDS = 10, 30


def find_or_pull(client: DockerClient, name: str, say: Callable[[str], None], setting: str = "server.image") -> Image:
    """The image called `name`, by tag or digest: the one that is on this machine, or else pulled, with progress.

    `setting` is what in models.yaml names it. Raises EngineError when there is none, or none for this machine's
    architecture; a release of TensorFlow Serving that has no image is an error that names the newest that has one.
    """
    from docker.errors import ImageNotFound

    with told(f"image {name} can't be looked up"), contextlib.suppress(ImageNotFound):
        return client.images.get(name)
    say(f"Pulling {name} …")
    try:
        with told(f"cannot pull image {name}"):
            _show(_pull(client, name), name)
            return client.images.get(name)
    except EngineError as error:
        said = str(error)
        if _is_missing(said) and (newest := newest_release(client, name)):
            said = f"{name} is not in the registry; the newest that is: {newest}"
        raise EngineError(f"{said}; set {setting} in models.yaml") from None


def newest_release(client: DockerClient, name: str) -> str | None:
    """The newest release of TensorFlow Serving in the registry where `name` isn't, with the rest of its tag.

    None when `name` is no release, or no other is found in time.
    """
    repository, tag = _parts(name)
    version = version_in(name)
    if "@" in name or version is None:
        return None
    deadline = time.monotonic() + _LOOK_UPS_SECONDS
    for release in RELEASES:
        found = f"{repository}:{release}{tag.removeprefix(version)}"
        if release == version:
            continue
        if time.monotonic() > deadline or (there := _is_there(client, found)) is None:
            return None
        if there:
            return found
    return None


def _is_there(client: DockerClient, name: str) -> bool | None:
    """Whether the registry has an image; None when the registry can't be reached."""
    from docker.errors import DockerException

    before, client.api.timeout = client.api.timeout, _LOOK_UP_SECONDS
    try:
        client.images.get_registry_data(name)
    # The SDK lets through what its connection raises, which is an OSError.
    except (DockerException, OSError) as error:
        return False if _is_missing(str(error)) else None
    finally:
        client.api.timeout = before
    return True


def _is_missing(said: str) -> bool:
    """Whether the registry has no such tag, as engines report it."""
    return "manifest unknown" in said or "not found" in said.lower()


def _pull(client: DockerClient, name: str) -> Iterator[Mapping[str, Any]]:
    """The events of a pull. Raises EngineError when there is none for too long: the Docker SDK waits without an end."""
    events: queue.SimpleQueue[Mapping[str, Any] | Exception | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for event in client.api.pull(*_parts(name), stream=True, decode=True):
                events.put(event)
            events.put(None)
        except Exception as error:
            events.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            event = events.get(timeout=_SILENCE_SECONDS)
        except queue.Empty:
            raise EngineError(
                f"cannot pull image {name}: the engine reported nothing for {_SILENCE_SECONDS} s"
            ) from None
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        yield event


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
                raise EngineError(f"cannot pull image {name}: {error}{hint}")
            detail = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and detail.get("total"):
                layers[event["id"]] = (detail["current"], detail["total"])
                done, total = (sum(part) for part in zip(*layers.values(), strict=True))
                progress.update(task, completed=done, total=total)
