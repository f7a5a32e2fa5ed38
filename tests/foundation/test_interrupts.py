"""SIGTERM ends a command as Ctrl-C does; in the midst of an import it is heard once the import is over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORTER = """
from tfserving.foundation.interrupts import ended_as_by_ctrl_c
try:
    with ended_as_by_ctrl_c():
        import slow
        __import__("time").sleep(60)
except KeyboardInterrupt:
    print("whole" if "slow" in __import__("sys").modules else "half")
"""
# What a compiled module does when its initialisation is interrupted: it has an error of its own.
SLOW = """
import time
print("importing", flush=True)
try:
    until = time.monotonic() + 1
    while time.monotonic() < until:
        pass
except KeyboardInterrupt:
    raise ImportError("failed to import") from None
print("imported", flush=True)
"""


def test_an_import_is_never_interrupted(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-c", IMPORTER]
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read().split()
    assert said == ["imported", "whole"]
    assert process.returncode == 0


ENDED = """
import signal, time
from tfserving.foundation.interrupts import ended_as_by_ctrl_c
signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    with ended_as_by_ctrl_c():
        print("ready", flush=True)
        time.sleep(60)
finally:
    print("cleaned up", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDED]
    env = {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        # Ignored, as under `nohup`.
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "cleaned up True\n"
