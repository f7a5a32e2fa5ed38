"""The GPUs and processes that a driver lists in tests, which run without a GPU."""

from __future__ import annotations

from pathlib import Path

from tests.driver import Driver

# index, uuid, name, memory.total and memory.used in MiB, driver_version, compute_cap
H200 = ("0", "GPU-1a2b", "NVIDIA H200", "143771", "672", "580.65.06", "9.0")
SECOND = ("1", "GPU-3c4d", "NVIDIA H200", "143771", "0", "580.65.06", "9.0")


def write_nvidia_smi(
    folder: Path, gpus: tuple[tuple[str, ...], ...] = (H200,), processes: tuple[tuple[str, ...], ...] = ()
) -> None:
    """Write a `nvidia-smi` to `folder`, which the test has on PATH.

    A process is the UUID of its GPU, its number, its name, and its memory in MiB.
    """
    Driver(folder).lists(*map(", ".join, gpus), processes=tuple(map(", ".join, processes)))
