"""The NVIDIA GPUs of this machine, as the driver's `nvidia-smi` lists them. No library is needed for that.

https://docs.nvidia.com/deploy/nvidia-smi/index.html
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_SECONDS = 5.0
_KILLED_SECONDS = 0.5
_MIB = 1 << 20
# Sets which GPUs a process sees, and in which order: numbers, or UUIDs, which may be shortened.
VISIBLE = "CUDA_VISIBLE_DEVICES"
# NVIDIA's libraries read it when they are loaded. With 0 they never use TF32, whatever a program sets. TensorFlow's own
# setting covers its calls of cuBLAS and cuDNN; this covers calls of other code, such as an operation of a plugin.
# https://docs.nvidia.com/cuda/cublas/index.html#environment-variables
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
# With 0 cuDNN's algorithms are chosen by rule, so they are the same in each process. They are measured otherwise, and
# two measurements can differ.
AUTOTUNE = "TF_CUDNN_USE_AUTOTUNE"
# With true TensorFlow allocates a GPU's memory when it is needed. By default a process takes all of it.
GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
# The compute capability of the first GPUs with TF32.
_AMPERE = 8


@dataclass(frozen=True)
class Gpu:
    """A GPU. Sizes are in bytes; None where the driver doesn't report one, as for parts of a GPU (MIG)."""

    index: int
    uuid: str
    name: str
    total: int | None
    used: int | None
    driver: str = ""
    compute_capability: str = ""

    @property
    def has_tf32(self) -> bool:
        """Whether it can compute float32 in TF32."""
        major = self.compute_capability.partition(".")[0]
        return major.isdecimal() and has_tf32(int(major))

    def __str__(self) -> str:
        if self.total is None:
            return self.name
        used = "" if self.used is None else f"{gibibytes(self.used)} of "
        return f"{self.name}, {used}{gibibytes(self.total)} GiB{' used' if used else ''}"


@dataclass(frozen=True)
class GpuProcess:
    """A process that has memory on the GPU `uuid`; `used` is in bytes, None where the driver doesn't report it.

    In a container the driver lists none, since it knows the processes by the numbers that the host gives them.
    """

    uuid: str
    pid: int
    name: str
    used: int | None


def has_tf32(major: int) -> bool:
    """Return whether GPUs of this compute capability, such as 9 for 9.0, can compute float32 in TF32."""
    return major >= _AMPERE


def all_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver lists; none without a driver."""
    found = []
    for row in _query("gpu", "index,uuid,name,memory.total,memory.used,driver_version,compute_cap"):
        index, uuid, name, total, used, driver, capability = row
        if not index.isdecimal():
            continue
        found.append(Gpu(int(index), uuid, name, _size(total), _size(used), driver, capability))
    return tuple(found)


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use, in its order: those that CUDA_VISIBLE_DEVICES names, or all."""
    gpus = all_gpus()
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return gpus
    found: list[Gpu] = []
    for part in map(str.strip, chosen.split(",")):
        named = [gpu for gpu in gpus if str(gpu.index) == part or (part and gpu.uuid.startswith(part))]
        # The first name that fits no GPU, such as -1, ends the list:
        # https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
        if not named:
            break
        found.append(named[0])
    return tuple(found)


def gpu_processes() -> tuple[GpuProcess, ...]:
    """Return the processes that have memory on a GPU, as far as the driver lists them."""
    return tuple(
        GpuProcess(uuid, int(pid), name, _size(used))
        for uuid, pid, name, used in _query("compute-apps", "gpu_uuid,pid,process_name,used_memory")
        if pid.isdecimal()
    )


def gibibytes(size: int) -> str:
    """Return a size in bytes as GiB with one digit after the point."""
    return f"{size / (1 << 30):.1f}"


def _query(what: str, fields: str) -> Iterator[list[str]]:
    command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    for row in csv.reader(_output(command).splitlines(), skipinitialspace=True):
        if len(row) == 1 + fields.count(","):
            yield [field.strip() for field in row]


def _output(command: list[str]) -> str:
    """Return what a program prints; nothing if it is missing, fails, or takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    except OSError:
        return ""
    try:
        printed, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        # A process that waits for a GPU which no longer responds can't be killed, so this does not wait for its end.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_SECONDS)
        if process.stdout:
            process.stdout.close()
        return ""
    return "" if process.returncode else printed


def _size(text: str) -> int | None:
    # A text such as [N/A] where there is no number.
    return int(text) * _MIB if text.isdecimal() else None
