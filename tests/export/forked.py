"""Exports in processes of their own that have TensorFlow from the start, forked from one that only imported it.

An export that is stopped does what it does after its imports; they take most of its time, and are the same each time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from tfserving.cli import tfserving

_CONTEXT = multiprocessing.get_context("forkserver")
# A process of one thread can be forked: TensorFlow starts its own when it is first asked for something.
_CONTEXT.set_forkserver_preload(["tensorflow", "keras", "tfserving.export.commands.build", "tfserving.export.exporter"])
# After each of these steps something may be in a folder that was not there before.
_STEPS = ("open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "shutil.rmtree")


@dataclass(frozen=True)
class Moment:
    """When an export is killed: `seconds` after there is something new that `pattern` finds in `folder`."""

    folder: Path
    pattern: str
    seconds: float = 0.0


def start(folder: Path, *arguments: str, killed: Moment | None = None) -> ForkServerProcess:
    """Starts `tfserving export ARGUMENTS` in `folder`, where two files get what it prints."""
    process = _CONTEXT.Process(target=_run, args=(folder, arguments, killed))
    process.start()
    return process


def printed(folder: Path, process: ForkServerProcess) -> tuple[str, str]:
    """What that export has printed so far, on stdout and on stderr."""
    out, err = ((folder / f"{process.pid}.{stream}").read_text() for stream in ("out", "err"))
    return out, err


def _run(folder: Path, arguments: tuple[str, ...], killed: Moment | None) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for descriptor, stream in ((1, "out"), (2, "err")):
        file = os.open(f"{os.getpid()}.{stream}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(file, descriptor)
    if killed:
        _kill_at(killed)
    tfserving.main(["export", *arguments], prog_name="tfserving")


def _kill_at(moment: Moment) -> None:
    """Kills this process at that moment, however late a busy machine would let another one notice it."""
    before = {*moment.folder.glob(moment.pattern)}
    looking = False

    def look(step: str, _: object) -> None:
        nonlocal looking
        if looking or step not in _STEPS:
            return
        looking = True
        if not {*moment.folder.glob(moment.pattern)} - before:
            looking = False
        elif moment.seconds:
            threading.Timer(moment.seconds, _kill).start()
        else:
            _kill()

    sys.addaudithook(look)


def _kill() -> None:
    # Its fresh process would go on until it found that it is alone, having imported TensorFlow.
    for fresh in psutil.Process().children():
        fresh.kill()
    os.kill(os.getpid(), signal.SIGKILL)
