"""The GPUs of a running server, and its memory on them, by what the driver lists.

A process is on the GPUs where it or a child has memory. A container has the GPUs that it was created with; Docker knows
the number of its first process on this machine, and so its memory.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.foundation.gpus import Gpu, GpuProcess, gibibytes, gpu_processes

_PROC = Path("/proc")


@dataclass(frozen=True)
class ServerGpu:
    """A GPU of a server. `used` is the server's memory in bytes; None if the driver doesn't list it."""

    gpu: Gpu
    used: int | None

    def __str__(self) -> str:
        name = f"{self.gpu.name} (GPU {self.gpu.index})"
        if self.gpu.total is None:
            return name
        used = "" if self.used is None else f"{gibibytes(self.used)} of "
        return f"{name}, {used}{gibibytes(self.gpu.total)} GiB"

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        gpu = self.gpu
        return {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "name": gpu.name,
            "total_bytes": gpu.total,
            "used_bytes": self.used,
        }


def process_gpus(pid: int, gpus: tuple[Gpu, ...]) -> tuple[ServerGpu, ...] | None:
    """Return the GPUs among those of this machine, `gpus`, where a process or its children have memory.

    None where that isn't known: there are GPUs, but the driver lists no processes, as in a container.
    """
    if not gpus:
        return ()
    processes = gpu_processes()
    if not processes:
        return None
    used = _used(processes, pid)
    return tuple(ServerGpu(gpu, used[gpu.uuid]) for gpu in gpus if gpu.uuid in used)


def container_gpus(attributes: Mapping[str, Any], gpus: tuple[Gpu, ...]) -> tuple[ServerGpu, ...] | None:
    """Return the GPUs of a container, by what `docker inspect` reports, among those of this machine, `gpus`.

    None if it has GPUs, and this machine lists none.
    """
    requests = attributes["HostConfig"].get("DeviceRequests") or ()
    wanted = [request for request in requests if any("gpu" in names for names in request.get("Capabilities") or ())]
    if not wanted:
        return ()
    if not gpus:
        return None
    used = _used(gpu_processes(), attributes["State"].get("Pid") or 0)
    found = (gpu for request in wanted for gpu in _requested(gpus, request))
    return tuple(ServerGpu(gpu, used.get(gpu.uuid)) for gpu in dict.fromkeys(found))


def device_text(gpus: Iterable[ServerGpu] | None, *, tf32: bool | None = None) -> str:
    """Return the device of a server in words; with `tf32`, which is `server.tf32`, also how it computes float32."""
    if gpus is None:
        return "unknown: nvidia-smi lists no processes here"
    found = tuple(gpus)
    if not found:
        return "CPU"
    words = [", ".join(map(str, found))]
    if tf32 is not None and any(one.gpu.has_tf32 for one in found):
        words.append(f"TF32 {'on' if tf32 else 'off'}")
    return "; ".join(words)


def _requested(gpus: tuple[Gpu, ...], request: Mapping[str, Any]) -> tuple[Gpu, ...]:
    """Return the GPUs of a device request: those with these names, or the first ones."""
    if names := request.get("DeviceIDs"):
        return tuple(gpu for gpu in gpus if str(gpu.index) in names or gpu.uuid in names)
    count = request.get("Count", -1)
    return gpus if count < 0 else gpus[:count]


def _used(processes: Iterable[GpuProcess], pid: int) -> dict[str, int | None]:
    """Return the memory of a process and its children by GPU; None where the driver doesn't report a number."""
    family, used = _family(pid), dict[str, int | None]()
    for process in processes:
        if process.pid in family:
            before = used.get(process.uuid, 0)
            used[process.uuid] = None if before is None or process.used is None else before + process.used
    return used


def _family(pid: int) -> set[int]:
    """Return the numbers of a process and of its children."""
    children = defaultdict[int, list[int]](list)
    for path in _PROC.glob("[0-9]*/stat"):
        # A process that has ended has no file any more.
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name of a program, in parentheses, may contain any character.
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(int(path.parent.name))
    found, left = set[int](), [pid]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += children[one]
    return found
