"""Versions that tests export as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def export_scaled(fleet: Path, scales: Iterable[int], slow: int | None = None, model: str = "") -> None:
    """A version of `tests.scaled` for each scale, in the fleet of that file; that of `slow` takes its time.

    Of `model`, or of every model of the fleet.
    """
    for scale in scales:
        done = subprocess.run(
            [sys.executable, "-m", "tfserving", "export", "build", *filter(None, [model]), "--fleet", str(fleet)],
            cwd=ROOT,
            env={**os.environ, "SCALE": str(scale), "SLOW": str(int(scale == slow))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
