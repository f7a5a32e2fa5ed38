"""A version appears whole or not at all.

    models/<name>/.tmp-<machine>-<random>/   created by enter(), removed at the end or by the next export
        lock                                 locked by the exporter while it runs
        version/                             the version while it is written and verified
    models/<name>/<number>/                  the new name of version/ after publish()

A server ignores folders whose name isn't a number. The kernel releases the lock when its exporter ends in any way, so a
folder whose lock is free is abandoned. Not every network file system shows other machines' locks, so a folder of
another machine is abandoned only when it is a week old.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tfserving.export.errors import ExportError
from tfserving.foundation.golden import is_version

PREFIX = ".tmp-"
_WEEK = 7 * 24 * 3600
# The errors of rename when the target exists.
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class Staging:
    """The hidden folder in which one version of a model is made. Use it in a `with` statement."""

    def __init__(self, model_folder: Path) -> None:
        """Use `model_folder`, which holds the model's versions. It is created if it doesn't exist."""
        self._model_folder = model_folder
        self._folder = Path()
        self._lock = -1

    @property
    def version_folder(self) -> Path:
        """The folder that the version is written to."""
        return self._folder / "version"

    @property
    def scratch(self) -> Path:
        """A folder for temporary files, which is removed when the `with` statement ends."""
        return self._folder

    def __enter__(self) -> Staging:
        try:
            while self._lock < 0:
                self._folder = self._model_folder / _name()
                self._model_folder.mkdir(parents=True, exist_ok=True)
                # Another exporter that failed may have removed the model's folder again, as it was empty.
                with contextlib.suppress(FileNotFoundError):
                    # Nobody else may write to a version before it has its name.
                    self._folder.mkdir(mode=0o700)
                    self._lock = _lock(self._folder)
            _remove_abandoned(self._model_folder)
            self.version_folder.mkdir()
        except BaseException:
            # Ctrl-C can arrive at any time, and `with` calls no __exit__ if __enter__ fails.
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
        # A model that was never exported leaves no folder.
        with contextlib.suppress(OSError):
            self._model_folder.rmdir()

    def publish(self, finish: Callable[[int], object]) -> Path:
        """Flush the version, rename it to the next free number, and return its path.

        `finish` is called with the number, to write the files that depend on it. It is called again when another
        exporter took that number first. An existing version is never replaced.
        """
        while True:
            number = next_version(self._model_folder)
            finish(number)
            try:
                return self.place(number)
            except FileExistsError:
                continue

    def place(self, number: int) -> Path:
        """Flush the version, rename it to `number`, and return its path. Raises FileExistsError when it exists."""
        target = self._model_folder / str(number)
        _flush(self.version_folder)
        try:
            self.version_folder.rename(target)
        except OSError as error:
            if error.errno in TAKEN:
                raise FileExistsError(error.errno, "exists already", str(target)) from None
            raise
        _flush_folder(self._model_folder)
        _flush_folder(self._model_folder.parent)
        return target


def remove_version(version_folder: Path) -> None:
    """Remove a version: it is first hidden from servers at once, then deleted."""
    folder = version_folder.parent / _name()
    folder.mkdir()
    lock = _lock(folder)
    version_folder.rename(folder / "version")
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def check_writable(model_folder: Path) -> None:
    """Raise ExportError when versions can't be written to `model_folder`, which may not exist yet."""
    while True:
        existing = next(path for path in (model_folder, *model_folder.parents) if path.exists())
        # Another exporter may remove an empty folder meanwhile.
        with contextlib.suppress(FileNotFoundError):
            _require_writable(existing, model_folder)
            return


def _require_writable(existing: Path, model_folder: Path) -> None:
    if not existing.is_dir():
        raise ExportError(f"{existing} is not a folder, so no version can be written to {model_folder}")
    # An attempt finds what permissions don't show: a file system that is read-only or full.
    probe = existing / f"{PREFIX}{secrets.token_hex(6)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ExportError(
            f"{existing} can't be written ({error.strerror}), so no version can be written to {model_folder}"
        ) from None


def next_version(model_folder: Path) -> int:
    """Return the number after the highest one in `model_folder`, whether that is a folder or a file."""
    return 1 + max((int(child.name) for child in model_folder.iterdir() if is_version(child.name)), default=0)


def _remove_abandoned(model_folder: Path) -> None:
    """Remove the staging folders of exporters that have ended."""
    for folder in model_folder.glob(f"{PREFIX}*"):
        lock = _lock(folder) if _is_ours(folder) else -1
        if lock >= 0:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _name() -> str:
    return f"{PREFIX}{_machine()}-{secrets.token_hex(6)}"


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_ours(folder: Path) -> bool:
    """Return whether a staging folder is of this machine, or too old to be in use."""
    machine, mark, _ = folder.name.removeprefix(PREFIX).partition("-")
    try:
        return not mark or machine == _machine() or time.time() - folder.stat().st_mtime > _WEEK
    except FileNotFoundError:
        return False


def _lock(folder: Path) -> int:
    """Lock the staging folder `folder`; return the lock's descriptor, or -1 if another process has or removed it."""
    path = folder / "lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and flock, another process may have found it unlocked and removed it.
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
    """Write all of `folder` to the disk, so that nothing is only in the kernel's memory."""
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
