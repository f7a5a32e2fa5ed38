"""Ctrl-C and SIGTERM of a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import os
from tfserving.interrupts import Interrupts

interrupts = Interrupts()
interrupts.handle()
# As while TensorFlow is imported.
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
try:
    import interrupted
except KeyboardInterrupt:
    interrupts.end()
"""


def test_an_import_with_hidden_stderr_is_stopped_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\n")
    (tmp_path / "program.py").write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (143, "\nStopped.\n")
