"""Write a chart's folder: whole or not at all, and over nothing but an earlier chart."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tfserving.k8s.chart.files import MARK

_HEAD = 400


def check(folder: Path) -> None:
    """Raise OSError when `folder` can't be written, or contains anything but an earlier chart."""
    if not folder.parent.is_dir():
        raise OSError(errno.ENOENT, "the folder does not exist", str(folder.parent))
    if not os.access(folder.parent, os.W_OK):
        raise OSError(errno.EACCES, "no file can be made in this folder", str(folder.parent))
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise OSError(errno.EEXIST, "this is not a folder. Name another one with --output", str(folder))
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (not path.is_dir() and not _ours(path)):
            reason = "this file is not part of a generated chart. Move it, or name another folder with --output"
            raise OSError(errno.EEXIST, reason, str(path))


def _ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(_HEAD)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files, in place of an earlier chart. Raises OSError; then the folder is as it was."""
    check(folder)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        for path, text in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_text(text)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
