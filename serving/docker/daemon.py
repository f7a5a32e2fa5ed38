"""The Docker Engine, and what it says when it can't."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfserving.serving.engines import EngineError

if TYPE_CHECKING:
    from docker import DockerClient

# An engine that is there answers at once.
_SECONDS = 10


def connect() -> DockerClient:
    """A client of the engine that DOCKER_HOST, or else the usual socket, says.

    Raises EngineError when none answers.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=_SECONDS)
        client.ping()
    except DockerException as error:
        raise EngineError(f"no Docker Engine answers: {_reason(error)}") from None
    # A pull or a stop may take its time.
    client.api.timeout = 600
    return client


def unusable() -> str | None:
    """Why containers with folders of this machine can't be run; None when they can."""
    try:
        with contextlib.closing(connect()) as client:
            address = str(client.api.base_url)
    except EngineError as error:
        return str(error)
    if not address.startswith(("http+docker://", "http+unix://", "npipe://")):
        return f"the Docker Engine at {address} is on another machine, where this one's folders can't be mounted"
    return None


def require() -> None:
    """Raises EngineError when containers with folders of this machine can't be run."""
    if reason := unusable():
        raise EngineError(f"docker can't be used: {reason}")


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """An error of the engine becomes an EngineError that begins with `what` could not be done."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise EngineError(f"{what}: {_explained(error.explanation or str(error))}") from None
    # The SDK lets through what its connection raises, which is an OSError.
    except (DockerException, OSError) as error:
        raise EngineError(f"{what}: {_reason(error)}") from None


def _explained(text: str) -> str:
    """What the engine said, and what it means where that isn't plain."""
    if "capabilities: [[gpu]]" in text:
        return (
            "the engine has no GPU support: it needs NVIDIA's driver and the NVIDIA Container Toolkit "
            f"(`nvidia-ctk runtime configure`), or leave out server.gpus ({text})"
        )
    if "executable file not found" in text:
        return f"its command was not found; is the image one of TensorFlow Serving? ({text})"
    if "nvidia-container-cli" in text and "device" in text:
        return f"a GPU that server.gpus names isn't there; `nvidia-smi -L` lists them ({text})"
    if "port is already allocated" in text or "address already in use" in text:
        return f"{text}; give --port and --rest-port others"
    return text


def _reason(error: Exception) -> str:
    """The innermost text of an error that wraps others."""
    text = str(error)
    for found, plain in (
        ("FileNotFoundError", "its socket isn't there; is it installed and running?"),
        ("Connection refused", "nothing listens there; is it running?"),
        ("PermissionError", "its socket is for root and the group docker; add yourself to the group"),
    ):
        if found in text:
            return plain
    return text
