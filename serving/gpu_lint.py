"""Problems of `server.gpus`: GPUs that this machine lacks, and GPUs that a server leaves unused."""

from __future__ import annotations

from collections.abc import Iterator

from tfserving.foundation.gpus import all_gpus, visible_gpus
from tfserving.serving.gpu_environment import GpuError, visible_devices
from tfserving.serving.models_yaml.server import ServerSettings
from tfserving.serving.problem import Problem

_WHERE = "server.gpus"


def missing_gpus(server: ServerSettings) -> Iterator[Problem]:
    """Yield a problem if a process that starts here can't have its GPUs. For a container, the engine checks them."""
    try:
        visible_devices(server)
    except GpuError as error:
        yield Problem(_WHERE, str(error))


def unused_gpus(server: ServerSettings, *, container: bool, embedded: bool) -> Iterator[Problem]:
    """Yield a warning if the server computes on fewer GPUs than it has."""
    number = _number(server, container=container)
    # Each worker has a GPU.
    used = int(server.flags.get("workers", 1)) if embedded else 1
    if number <= used:
        return
    if embedded:
        text = f"each worker computes on one GPU, so {number - used} of {number} stay unused. Set `server.flags: "
        yield Problem(_WHERE, f"{text}{{workers: {number}}}`, or use fewer GPUs", warning=True)
    else:
        text = f"TensorFlow Serving computes on the first GPU only, so {number - 1} of {number} stay unused. Set "
        yield Problem(_WHERE, f"{text}`gpus: 1`, and run a server for each GPU", warning=True)


def _number(server: ServerSettings, *, container: bool) -> int:
    """Return how many GPUs the server has."""
    if isinstance(server.gpus, tuple):
        return len(server.gpus)
    if server.gpus == "all":
        return len(all_gpus() if container else visible_gpus())
    return server.gpus or 0
