"""The right to change what a fleet's servers serve, which one shell has at a time.

`labels`, `reload` and `up` read models.yaml, change servers by it, and write it: two at once would undo each other's
changes. Rollouts of several models go on beside each other, and share it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tfserving.serving.engines import EngineError

_POLL_SECONDS = 0.1


@contextmanager
def changing(
    file: Path, wait: float = 0.0, say: Callable[[str], None] | None = None, *, shared: bool = False
) -> Iterator[None]:
    """The right to change the fleet of models.yaml `file`, waited for up to `wait` seconds; `say` is told of the wait.

    It is a lock of the file's folder, which needs no file of its own and goes when the process ends. `shared`, others
    may share it. Raises EngineError when another shell has it.
    """
    try:
        handle = os.open(file.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:
        raise EngineError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        deadline, told = time.monotonic() + wait, False
        while not _locked(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"another shell changes what the servers of {file} serve, or rolls a version out "
                    "(`tfserving k8s rollout status MODEL`); run the command again when it is done"
                )
            if say and not told:
                say(f"Waiting for another shell that changes what the servers of {file} serve …")
                told = True
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
        # A file system that has no locks of folders. What is written to models.yaml is compared with what was read.
        return True
    return True
