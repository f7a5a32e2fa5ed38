"""Which GPUs this machine has, who uses their memory, and whether TensorFlow here and `server.gpus` can have them."""

from __future__ import annotations

import os
import platform
import runpy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tfserving.doctor.finding import Finding
from tfserving.doctor.fleet import server_settings
from tfserving.doctor.installation import package_version
from tfserving.foundation.extras import how_to_install
from tfserving.foundation.gpus import VISIBLE, Gpu, GpuProcess, all_gpus, gibibytes, gpu_processes, visible_gpus

_TF32 = "TF32 is off unless server.tf32 is true"


def gpu(file: Path) -> Finding:
    """Return the GPUs that the driver lists, the processes that use them, and what keeps a server from them."""
    gpus, lacking = all_gpus(), _lacking(file)
    processes = gpu_processes() if gpus else ()
    visible = {one.uuid for one in (visible_gpus() if VISIBLE in os.environ else gpus)}
    reason = _unusable_by_tensorflow() if gpus else None
    data = {
        "gpus": [_as_json(one, one.uuid in visible) for one in gpus],
        "processes": [
            {"uuid": one.uuid, "pid": one.pid, "name": one.name, "used_bytes": one.used} for one in processes
        ],
        "tensorflow_can_use_it": bool(gpus) and reason is None,
    }
    found = "\n".join(_lines(gpus, processes, visible)) or "no NVIDIA GPU found"
    if lacking:
        return Finding("GPU", "problem", found, f"server.gpus: {lacking}.", data)
    if not gpus:
        return Finding("GPU", "missing", found, "Optional: models run on the CPU. A GPU needs NVIDIA's driver.", data)
    if reason:
        hint = f"TensorFlow here can't use it: {reason}. Or serve with Docker and server.gpus."
        return Finding("GPU", "missing", found, hint, data)
    return Finding("GPU", "ok", found, data=data)


def _lines(gpus: tuple[Gpu, ...], processes: tuple[GpuProcess, ...], visible: set[str]) -> Iterator[str]:
    for one in gpus:
        more = [f"compute capability {one.compute_capability}"] if one.compute_capability else []
        if one.uuid not in visible:
            more.append(f"hidden by {VISIBLE}")
        yield ", ".join([f"GPU {one.index}: {one}", *more])
        if one.used is None:
            yield "  the driver does not report its memory, as of a GPU in parts (MIG); `nvidia-smi -L` lists them"
        for process in processes:
            if process.uuid == one.uuid:
                used = "memory" if process.used is None else f"{gibibytes(process.used)} GiB"
                yield f"  process {process.pid} ({process.name}) has {used}"
    if drivers := ", ".join(dict.fromkeys(one.driver for one in gpus if one.driver)):
        yield f"driver {drivers}" + (f"; {_TF32}" if any(one.has_tf32 for one in gpus) else "")


def _as_json(one: Gpu, visible: bool) -> dict[str, Any]:
    return {
        "index": one.index,
        "uuid": one.uuid,
        "name": one.name,
        "total_bytes": one.total,
        "used_bytes": one.used,
        "driver": one.driver,
        "compute_capability": one.compute_capability,
        "has_tf32": one.has_tf32,
        "visible": visible,
    }


def _unusable_by_tensorflow() -> str | None:
    """Return why TensorFlow here can't use a GPU, and what to do; None if it can, as far as its libraries show."""
    from tfserving.serving.embedded.gpu.libraries import missing_libraries

    spec = find_spec("tensorflow")
    version = package_version("tensorflow")
    if version is None or spec is None or spec.origin is None:
        instead = "tensorflow-cpu is installed" if package_version("tensorflow-cpu") else "it is not installed"
        return f"{instead}. Make an environment with {how_to_install('all')} and tensorflow[and-cuda]"
    # The import of TensorFlow would take seconds.
    build = runpy.run_path(str(Path(spec.origin).parent / "python/platform/build_info.py"))["build_info"]
    if not build.get("is_cuda_build"):
        return f"its package for {platform.machine()} has no GPU support"
    if missing := missing_libraries(build):
        return f"{', '.join(missing)} can't be loaded. Install `tensorflow[and-cuda]=={version}`"
    return None


def _lacking(file: Path) -> str | None:
    """Return why a server that is a process can't have the GPUs of `server.gpus`; None if it can."""
    settings = server_settings(file)
    if settings is None or settings.gpus is None:
        return None
    from tfserving.serving.gpu_lint import missing_gpus

    return next((problem.text for problem in missing_gpus(settings)), None)
