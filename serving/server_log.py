"""The log of a server that is a process: files of bounded size beside its configuration.

    server.log  ── when it is full ──►  server.log.1  ──►  server.log.2  ──►  removed

The limits are those of a container's log.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

NAME = "server.log"
LARGEST_BYTES = 10_000_000
FILES = 3
_POLL_SECONDS = 0.1


class ServerLog:
    """Writes a log in `folder`, which exists. Only this user can read it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = self._new()

    def write(self, line: str) -> None:
        """Write a line. Raises OSError when it can't be written."""
        data = f"{line}\n".encode(errors="replace")
        size = self._file.tell()
        if size and size + len(data) > LARGEST_BYTES:
            self._turn()
        self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _turn(self) -> None:
        """Begin a new file and remove the oldest one."""
        files = _files(self._folder)
        for newer, older in zip(files[-2::-1], files[:0:-1], strict=True):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        file = self._new()
        self._file.close()
        self._file = file

    def _new(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        # Without a buffer: a written line can be read at once.
        return os.fdopen(os.open(_files(self._folder)[0], flags, 0o600), "wb", buffering=0)


def read(folder: Path, *, follow: bool, tail: int | None, alive: Callable[[], bool]) -> Iterator[str]:
    """Yield the last `tail` lines of the log in `folder`, or all, and with `follow` new ones until the server ends.

    Raises FileNotFoundError when there is no log.
    """
    with contextlib.ExitStack() as stack:
        newest = stack.enter_context(_files(folder)[0].open("rb"))
        files = [newest]
        for path in _files(folder)[1:]:
            with contextlib.suppress(FileNotFoundError):
                file = stack.enter_context(path.open("rb"))
                # The files may have been renamed since the first was opened.
                if not any(os.path.sameopenfile(file.fileno(), other.fileno()) for other in files):
                    files.append(file)
        lines = (line for file in reversed(files) for line in file)
        yield from map(_text, lines if tail is None else deque(lines, tail))
        if follow:
            yield from _following(folder, newest, alive)


def _following(folder: Path, file: BinaryIO, alive: Callable[[], bool]) -> Iterator[str]:
    """Yield the lines that are written from now on, to `file` and to the files after it."""
    try:
        while True:
            # Checked before the rest is read: a file that was replaced gets no more lines.
            lives, newer = alive(), _newer(folder, file)
            yield from map(_text, file)
            if newer is not None:
                file.close()
                file = newer
            elif lives:
                time.sleep(_POLL_SECONDS)
            else:
                return
    finally:
        file.close()


def _newer(folder: Path, file: BinaryIO) -> BinaryIO | None:
    """Return the current log file if it isn't `file`; None if it is, or between two files."""
    with contextlib.suppress(FileNotFoundError):
        newest = _files(folder)[0].open("rb")
        if not os.path.sameopenfile(newest.fileno(), file.fileno()):
            return newest
        newest.close()
    return None


def _files(folder: Path) -> list[Path]:
    """Return the files, the newest first."""
    return [folder / NAME, *(folder / f"{NAME}.{number}" for number in range(1, FILES))]


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
