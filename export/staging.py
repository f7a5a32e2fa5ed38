"""A version appears whole or not at all.

    models/<name>/.tmp-<random>/      made by enter(), removed at the end or by the next export
        lock                          locked by the exporter as long as it lives
        version/                      the version while it is written and proved
    models/<name>/<number>/           what version/ is renamed to by publish()

A server takes no folder whose name isn't a number. The kernel drops the lock when its exporter ends, however it
ends, so a folder whose lock is free belongs to nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tfserving.export.errors import ExportError
from tfserving.foundation.golden import is_version

PREFIX = ".tmp-"
# What rename says when there is something at the target already.
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class Staging:
    """The hidden folder in which one version of a model is made; use it in a `with` statement."""

    def __init__(self, model_folder: Path) -> None:
        """`model_folder` holds the model's versions; it is made when it isn't there."""
        self._model_folder = model_folder
        self._folder = Path()
        self._lock = -1

    @property
    def version_folder(self) -> Path:
        """Where the version is written."""
        return self._folder / "version"

    @property
    def scratch(self) -> Path:
        """A folder for what is not part of the version; it goes when the `with` statement ends."""
        return self._folder

    def __enter__(self) -> Staging:
        try:
            while self._lock < 0:
                self._folder = self._model_folder / f"{PREFIX}{secrets.token_hex(6)}"
                self._folder.mkdir(parents=True)
                self._lock = _lock(self._folder)
            _remove_abandoned(self._model_folder)
            self.version_folder.mkdir()
        except BaseException:
            # Ctrl-C comes at any time, and `with` doesn't end what it hasn't begun.
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
        # A model of which nothing was ever exported leaves no folder.
        with contextlib.suppress(OSError):
            self._model_folder.rmdir()

    def publish(self, finish: Callable[[int], object]) -> Path:
        """Flushes the version and renames it to the next free number; the path it got.

        `finish` is told the number and writes what depends on it; it is called again when another exporter took that
        number first. Nothing that exists is ever replaced.
        """
        while True:
            number = next_version(self._model_folder)
            finish(number)
            try:
                return self.place(number)
            except FileExistsError:
                continue

    def place(self, number: int) -> Path:
        """Flushes the version and renames it to `number`; the path it got. Raises FileExistsError when it is taken."""
        target = self._model_folder / str(number)
        _flush(self.version_folder)
        try:
            self.version_folder.rename(target)
        except OSError as error:
            if error.errno in TAKEN:
                raise FileExistsError(error.errno, "is taken", str(target)) from None
            raise
        _flush_folder(self._model_folder)
        _flush_folder(self._model_folder.parent)
        return target


def remove_version(version_folder: Path) -> None:
    """Removes a version: at once out of a server's sight, then from the disk."""
    folder = version_folder.parent / f"{PREFIX}{secrets.token_hex(6)}"
    folder.mkdir()
    lock = _lock(folder)
    version_folder.rename(folder / "version")
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def check_writable(model_folder: Path) -> None:
    """Raises ExportError when versions can't be written to `model_folder`, which needn't be there yet."""
    there = next(path for path in (model_folder, *model_folder.parents) if path.exists())
    if not there.is_dir():
        raise ExportError(f"{there} is no folder; versions are to be written to {model_folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ExportError(f"{there} can't be written to; versions are to be written to {model_folder}")


def next_version(model_folder: Path) -> int:
    """The number after the highest one that anything in `model_folder` is called."""
    return 1 + max((int(child.name) for child in model_folder.iterdir() if is_version(child.name)), default=0)


def _remove_abandoned(model_folder: Path) -> None:
    """Removes the staging folders of exporters that no longer live."""
    for folder in model_folder.glob(f"{PREFIX}*"):
        lock = _lock(folder)
        if lock >= 0:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int:
    """Locks the staging folder `folder`: the lock's descriptor, or -1 when another process has it or removed it."""
    path = folder / "lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and flock, somebody may have found it unlocked and removed it.
        if path.stat().st_ino == os.fstat(lock).st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return -1


def _flush(folder: Path) -> None:
    """Sees to it that all of `folder` is on the disk, not only in the kernel's memory."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
