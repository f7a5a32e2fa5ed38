"""The Docker Engine, and its errors in plain words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfserving.serving.engines import EngineError, UnreachableError

if TYPE_CHECKING:
    from docker import DockerClient

# A local engine responds at once.
_SECONDS = 10


def connect() -> DockerClient:
    """Return a client of the engine of DOCKER_HOST, or of the usual socket.

    Raises UnreachableError when no engine responds.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=_SECONDS)
        client.ping()
    except DockerException as error:
        raise UnreachableError(f"no Docker Engine is running: {_reason(error)}") from None
    # A pull or a stop may take long.
    client.api.timeout = 600
    return client


def unusable() -> str | None:
    """Return why containers with folders of this machine can't be run; None if they can."""
    try:
        with contextlib.closing(connect()) as client:
            address = str(client.api.base_url)
    except EngineError as error:
        return str(error)
    if not address.startswith(("http+docker://", "http+unix://", "npipe://")):
        return f"the Docker Engine at {address} is on another machine, which can't mount the folders of this one"
    return None


def require() -> None:
    """Raise UnreachableError when containers with folders of this machine can't be run."""
    if reason := unusable():
        raise UnreachableError(f"Docker can't be used: {reason}")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise an error of the engine as an EngineError that begins with `what`, the thing that failed."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise EngineError(f"{what}: {_in_words(error.explanation or str(error))}") from None
    # The SDK doesn't wrap an OSError of its connection.
    except (DockerException, OSError) as error:
        raise EngineError(f"{what}: {_reason(error)}") from None


def _in_words(text: str) -> str:
    """Return an engine's error, and what it means if that isn't clear."""
    # The last one is of engines that find GPUs by CDI: https://github.com/moby/moby.
    if any(sign in text for sign in ("capabilities: [[gpu]]", "discover GPU vendor from CDI")):
        return (
            "the engine has no GPU support. Install NVIDIA's driver and the NVIDIA Container Toolkit "
            f"(`nvidia-ctk runtime configure`), or remove server.gpus ({text})"
        )
    # Errors of https://github.com/NVIDIA/libnvidia-container.
    if "unsatisfied condition: cuda" in text:
        return (
            "NVIDIA's driver is too old for the CUDA release of the image. Install a newer one, or set server.image to "
            f"an older release ({text})"
        )
    if any(sign in text for sign in ("nvml error", "libnvidia-ml.so", "driver not loaded")):
        return f"NVIDIA's driver does not work on the engine's machine. Run `nvidia-smi` there ({text})"
    if "executable file not found" in text:
        return f"its command was not found. Check that the image contains TensorFlow Serving ({text})"
    if ("nvidia-container-cli" in text and "device" in text) or "unresolvable CDI devices" in text:
        return f"a GPU of server.gpus does not exist. `nvidia-smi -L` lists the GPUs ({text})"
    if "port is already allocated" in text or "address already in use" in text:
        return f"{text}. Use --port and --rest-port to choose others"
    return text


def _reason(error: Exception) -> str:
    """Return the innermost text of an error that wraps others."""
    text = str(error)
    for found, plain in (
        ("FileNotFoundError", "its socket does not exist. Install and start Docker, or set DOCKER_HOST"),
        ("Connection refused", "nothing listens on its socket. Start Docker, or set DOCKER_HOST"),
        ("PermissionError", "you can't open its socket. Add yourself to the group docker, or use a rootless engine"),
    ):
        if found in text:
            return plain
    return text
