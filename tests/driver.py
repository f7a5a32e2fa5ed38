"""A GPU driver for tests on machines without one: a `nvidia-smi` that prints what the real one does."""

from __future__ import annotations

from pathlib import Path


class Driver:
    """A `nvidia-smi`, the only program on PATH; `sh` is called by its path."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "nvidia-smi"
        self._folder = folder

    def lists(self, *gpus: str, processes: tuple[str, ...] = ()) -> None:
        """Prints a line for each GPU, and one for each process."""
        (self._folder / "gpus").write_text("".join(f"{gpu}\n" for gpu in gpus))
        (self._folder / "processes").write_text("".join(f"{process}\n" for process in processes))
        self.runs(
            'case "$1" in\n'
            f'--query-gpu=*) while read -r line; do echo "$line"; done < {self._folder}/gpus;;\n'
            f'--query-compute-apps=*) while read -r line; do echo "$line"; done < {self._folder}/processes;;\n'
            "*) exit 2;;\nesac\n"
        )

    def runs(self, script: str) -> None:
        """Runs a script in place of the program."""
        self._program.write_text(f"#!/bin/sh\n{script}")
        self._program.chmod(0o755)
