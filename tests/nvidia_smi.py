"""A program `nvidia-smi` for tests: it prints what the driver would list, since the tests run without a GPU."""

from __future__ import annotations

import shlex
from pathlib import Path

# index, uuid, name, memory.total and memory.used in MiB, driver_version, compute_cap
H200 = ("0", "GPU-1a2b", "NVIDIA H200", "143771", "672", "580.65.06", "9.0")
SECOND = ("1", "GPU-3c4d", "NVIDIA H200", "143771", "0", "580.65.06", "9.0")


def write_nvidia_smi(
    folder: Path, gpus: tuple[tuple[str, ...], ...] = (H200,), processes: tuple[tuple[str, ...], ...] = ()
) -> Path:
    """Write the program to `folder`, which the test has on PATH.

    A process is the UUID of its GPU, its number, its name, and its memory in MiB.
    """
    program = folder / "nvidia-smi"
    cases = "".join(
        f"  --query-{what}=*) printf '%s\\n' {' '.join(shlex.quote(', '.join(row)) for row in rows)} ;;\n"
        for what, rows in (("gpu", gpus), ("compute-apps", processes))
        if rows
    )
    program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}esac\n')
    program.chmod(0o755)
    return program
