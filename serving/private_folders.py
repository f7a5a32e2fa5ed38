"""Folders that only this user can write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tfserving.serving.engines import EngineError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(wanted: Path, own: int) -> Path:
    """Return the resolved path of a folder, made where it is missing; it and `own` folders above are this user's.

    Who can write to a folder further up could replace these, so it belongs to this user or to root, and only they write
    to it, or it is sticky, as /tmp. Others can read the folder, but not the `own` ones above. Raises EngineError, and
    OSError.
    """
    for folder in reversed(wanted.parents):
        if not folder.exists():
            folder.mkdir(mode=0o700)
    path = wanted.resolve()
    make_private(path)
    for folder in path.parents[own:]:
        found = folder.stat()
        shared = found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in (0, os.getuid()):
            raise _of_others(folder)
    for folder in path.parents[:own]:
        _check(folder)
    return path


def make_private(folder: Path) -> None:
    """Make a folder that only this user can write to, or check one. Raises EngineError, and OSError."""
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700)
        # A container has another user. The folders above keep other users of this machine out.
        folder.chmod(0o755)
    _check(folder)


def check_private(folder: Path) -> None:
    """Raise EngineError when others can write to a folder, or to a file in it through this or another name."""
    _check(folder)
    for path in folder.rglob("*"):
        _check(path)


def _check(path: Path) -> None:
    found = path.lstat()
    linked = not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & _OTHERS_WRITE or linked:
        raise _of_others(path)


def _of_others(path: Path) -> EngineError:
    found = path.lstat()
    return EngineError(
        f"{path} may be changed by others (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}, "
        f"{found.st_nlink} links). With `trust`, copies of versions lie in a folder that only you can write to. Remove "
        "it if it is a copy, use `chmod go-w`, or set XDG_STATE_HOME to a folder of your own"
    )
