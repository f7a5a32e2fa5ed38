"""The lock for changing what a fleet's servers serve, which one command holds at a time.

`labels`, `serve reload` and `serve up` read models.yaml, change servers, and write models.yaml. Two at once would undo
each other's changes. Rollouts of several models run at the same time and share the lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tfserving.foundation.command.hints import typed
from tfserving.serving.engines import EngineError

_POLL_SECONDS = 0.1


@contextmanager
def changing(
    file: Path, wait: float = 0.0, say: Callable[[str], None] | None = None, *, shared: bool = False
) -> Iterator[None]:
    """Hold the lock of models.yaml `file`. Wait up to `wait` seconds for it; `say` receives a line then.

    The lock is on the file's folder, so it needs no file of its own and is released when the process ends. With
    `shared` others can share it. Raises EngineError when another command holds it.
    """
    try:
        handle = os.open(file.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:
        raise EngineError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        deadline, waits = time.monotonic() + wait, False
        while not _locked(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"another command is changing the servers of {file}, or rolling out a version "
                    f"(`{typed('rollout status', fleet=file)}`). Run this command again when it is done"
                )
            if say and not waits:
                say(f"Waiting for another command that changes the servers of {file} …")
                waits = True
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


def _locked(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks of folders. Before models.yaml is written, it is compared with what was read.
        return True
    return True
