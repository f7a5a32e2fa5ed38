"""The image of a container: found on this machine, or pulled."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfserving.foundation.command.progress import Progress
from tfserving.serving.docker.daemon import explained
from tfserving.serving.docker.image_names import version_in
from tfserving.serving.engines import EngineError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image


# Newest first: https://github.com/tensorflow/serving/releases. Images are often published long after TensorFlow.
RELEASES = ("2.21.0", "2.20.0", "2.19.1", "2.19.0", "2.18.1", "2.18.0", "2.17.1", "2.17.0", "2.16.1", "2.15.1")
# The longest silence of an engine that pulls.
_SILENCE_SECONDS = 60
# To look up one release, and all of them.
_LOOK_UP_SECONDS, _LOOK_UPS_SECONDS = 10, 30


def find_or_pull(
    client: DockerClient, name: str, progress: Progress, setting: str = "server.image", *, by_digest: bool = False
) -> Image:
    """Return the image `name`, with a tag or digest. Pull it with progress if it isn't on this machine.

    `setting` is its key in models.yaml. With `by_digest` nothing is pulled by a tag, which whoever can write to the
    registry can move to another image. Raises EngineError when there is no such image, or none for this machine's
    architecture. For a release of TensorFlow Serving without an image, the error names the newest one that has one.
    """
    from docker.errors import ImageNotFound

    with explained(f"cannot look up image {name}"), contextlib.suppress(ImageNotFound):
        return client.images.get(name)
    if by_digest and "@" not in name:
        raise EngineError(
            f"image {name} is not on this machine. With `trust` no image is pulled by a tag, because its registry may "
            f"contain another image tomorrow. Set {setting} to a digest, {name}@sha256:…, or pull it yourself after "
            "checking it"
        )
    progress.line(f"Pulling {name} …")
    try:
        with explained(f"cannot pull image {name}"):
            _show(_pull(client, name), name, progress)
            return client.images.get(name)
    except EngineError as error:
        text = str(error)
        if _is_missing(text) and (newest := newest_release(client, name)):
            text = f"{name} is not in the registry. The newest release there is {newest}"
        raise EngineError(f"{text}. Set {setting} in models.yaml to another image") from None


def newest_release(client: DockerClient, name: str) -> str | None:
    """Return the newest release of TensorFlow Serving in the registry that lacks `name`, with the rest of its tag.

    None if `name` is no release, or no other is found in time.
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
    """Return whether the registry has an image; None if the registry can't be reached."""
    from docker.errors import DockerException

    before, client.api.timeout = client.api.timeout, _LOOK_UP_SECONDS
    try:
        client.images.get_registry_data(name)
    # The SDK doesn't wrap an OSError of its connection.
    except (DockerException, OSError) as error:
        return False if _is_missing(str(error)) else None
    finally:
        client.api.timeout = before
    return True


def _is_missing(text: str) -> bool:
    """Return whether the error of an engine means that the registry has no such tag."""
    return "manifest unknown" in text or "not found" in text.lower()


def _pull(client: DockerClient, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a pull. Raises EngineError after a long silence, where the Docker SDK would wait forever."""
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
    """Return the repository, and the tag or digest; `latest` if there is neither."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository.rpartition(":")[0] if ":" in repository.rpartition("/")[2] else repository, digest
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def _show(events: Iterator[Mapping[str, Any]], name: str, progress: Progress) -> None:
    """Show the progress of a pull. Raises EngineError for an error among its events."""
    layers: dict[str, tuple[int, int]] = {}
    progress.update(f"Pulling {name}")
    for event in events:
        if error := event.get("error"):
            hint = ""
            if "no matching manifest" in error:
                hint = ". TensorFlow Serving has no arm64 image; docs/docker.md explains how to build one"
            raise EngineError(f"cannot pull image {name}: {error}{hint}")
        detail = event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and detail.get("total"):
            layers[event["id"]] = (detail["current"], detail["total"])
            done, total = (sum(part) for part in zip(*layers.values(), strict=True))
            progress.update(f"Pulling {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")
