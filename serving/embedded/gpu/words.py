"""What the server reports about its devices when it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfserving.foundation.devices import Device
from tfserving.foundation.gpus import Gpu, gibibytes
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu.found import FoundGpu
from tfserving.serving.embedded.gpu.sessions import FORCED, Share

# Flags that only change how a GPU is used.
_ONLY_GPU = (
    "per_process_gpu_memory_fraction",
    "gpu_memory_growth",
    "xla_gpu_compilation_enabled",
    "enable_tf32",
    "enable_deterministic_gpu",
)


@dataclass(frozen=True)
class Used:
    """What a process uses.

    `names` and `totals` are those of the GPUs of `share`; a total is in bytes, None if the driver doesn't report it.
    `found` is the number of GPUs that TensorFlow found. `tf32` is None if none of the GPUs has TF32.
    """

    device: Device = "cpu"
    share: Share | None = None
    names: tuple[str, ...] = ()
    totals: tuple[int | None, ...] = ()
    found: int = 0
    tf32: bool | None = None
    deterministic: bool = False
    warnings: tuple[str, ...] = ()


def matched(found: Sequence[FoundGpu], listed: Sequence[Gpu]) -> tuple[Gpu | None, ...]:
    """Returns for each GPU that TensorFlow found the one that the driver lists; None where there is no such pair.

    A part of a GPU (MIG) has none: the driver lists the whole GPU.
    """
    if len(found) != len(listed):
        return (None,) * len(found)
    return tuple(None if " MIG " in gpu.name else one for gpu, one in zip(found, listed, strict=True))


def describe(processes: Sequence[Used]) -> str:
    """Returns the devices of all processes of the server, for the line that it logs when it serves."""
    gpus = {
        gpu: _gpu(gpu, name, total, used)
        for used in processes
        if used.share
        for gpu, name, total in zip(used.share.gpus, used.names, used.totals, strict=True)
    }
    if not gpus:
        return "device: CPU"
    known = [used.tf32 for used in processes if used.tf32 is not None]
    ends = [
        *([f"TF32 {'on' if any(known) else 'off'}"] if known else []),
        *(["autotuning off"] if processes[0].deterministic else []),
    ]
    return "; ".join((f"device: {'; '.join(text for _, text in sorted(gpus.items()))}", *ends))


def _gpu(number: int, name: str, total: int | None, used: Used) -> str:
    share = used.share
    assert share is not None
    size = f"{gibibytes(total)} GiB, " if total is not None else ""
    return f"{name} (GPU {number} of {used.found}), {size}{memory_of(share)}"


def memory_of(share: Share) -> str:
    """Returns how a process allocates a GPU's memory."""
    if not share.fraction:
        return "grows" if share.grows else "all of it allocated at the first load"
    part = f"{100 * share.fraction:.3g} %"
    text = f"grows to at most {part}" if share.grows else f"{part} allocated at the first load"
    return text if share.processes == 1 else f"{text} in each of {share.processes} processes"


def warnings_of(
    flags: Flags,
    share: Share | None,
    found: Sequence[FoundGpu],
    *,
    several: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> tuple[str, ...]:
    """Returns warnings about flags without effect and GPUs that no process uses.

    With `several` the server has several processes.
    """
    if share is None:
        given = [f"--{name}" for name in _ONLY_GPU if getattr(flags, name) not in (None, False, 0)]
        return (f"{', '.join(given)}: no effect, because no GPU is used",) if given else ()
    warnings = []
    unused = [number for number in range(len(found)) if number not in share.gpus]
    if unused and not several:
        numbers = ", ".join(map(str, unused))
        warnings.append(
            f"GPU {numbers} {'is' if len(unused) == 1 else 'are'} not used: one process uses one GPU. Set "
            f"--workers={len(found)} for a process on each, or CUDA_VISIBLE_DEVICES to choose one"
        )
    forced = environment.get(FORCED)
    if flags.gpu_memory_growth is not None and forced in {"true", "false"} and share.grows != flags.gpu_memory_growth:
        warnings.append(
            f"--gpu_memory_growth={str(flags.gpu_memory_growth).lower()} has no effect, because {FORCED}={forced} is "
            "set in the environment"
        )
    return tuple(warnings)
