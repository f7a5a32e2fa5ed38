"""Exports in processes of their own that have TensorFlow from the start, forked from one that only imported it.

An export that is killed does what it does after its imports; they take most of its time, and are the same each time.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tfserving.cli import tfserving

_CONTEXT = multiprocessing.get_context("forkserver")
# A process of one thread can be forked: TensorFlow starts its own when it is first asked for something.
_CONTEXT.set_forkserver_preload(["tensorflow", "keras", "tfserving.export.commands.build", "tfserving.export.exporter"])


def start(folder: Path, *arguments: str) -> ForkServerProcess:
    """Starts `tfserving export ARGUMENTS` in `folder`, where two files get what it prints."""
    process = _CONTEXT.Process(target=_run, args=(folder, arguments))
    process.start()
    return process


def printed(folder: Path, process: ForkServerProcess) -> tuple[str, str]:
    """What that export has printed so far, on stdout and on stderr."""
    out, err = ((folder / f"{process.pid}.{stream}").read_text() for stream in ("out", "err"))
    return out, err


def _run(folder: Path, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for descriptor, stream in ((1, "out"), (2, "err")):
        file = os.open(f"{os.getpid()}.{stream}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(file, descriptor)
    tfserving.main(["export", *arguments], prog_name="tfserving")
