"""What a server prints that is a process of this machine, kept in files of bounded size beside its configuration.

    server.log  ── when it is full ──►  server.log.1  ── then ──►  server.log.2  ── then it is gone

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
    """Writes a log in `folder`, which exists. Nobody but this user can read it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = self._new()

    def write(self, line: str) -> None:
        """Adds a line. Raises OSError when the disk refuses it."""
        data = f"{line}\n".encode(errors="replace")
        size = self._file.tell()
        if size and size + len(data) > LARGEST_BYTES:
            self._turn()
        self._file.write(data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _turn(self) -> None:
        """Begins a new file; the oldest one goes."""
        files = _files(self._folder)
        for newer, older in zip(files[-2::-1], files[:0:-1], strict=True):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        file = self._new()
        self._file.close()
        self._file = file

    def _new(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        # Without a buffer: a line that is written can be read.
        return os.fdopen(os.open(_files(self._folder)[0], flags, 0o600), "wb", buffering=0)


def read(folder: Path, *, follow: bool, tail: int | None, alive: Callable[[], bool]) -> Iterator[str]:
    """The lines of the log in `folder`: the last `tail`, or all, and with `follow` what comes while the server lives.

    Raises FileNotFoundError when there is none.
    """
    with contextlib.ExitStack() as stack:
        newest = stack.enter_context(_files(folder)[0].open("rb"))
        files = [newest]
        for path in _files(folder)[1:]:
            with contextlib.suppress(FileNotFoundError):
                file = stack.enter_context(path.open("rb"))
                # The files may have moved on since the first was opened.
                if not any(os.path.sameopenfile(file.fileno(), other.fileno()) for other in files):
                    files.append(file)
        lines = (line for file in reversed(files) for line in file)
        yield from map(_text, lines if tail is None else deque(lines, tail))
        if follow:
            yield from _following(folder, newest, alive)


def _following(folder: Path, file: BinaryIO, alive: Callable[[], bool]) -> Iterator[str]:
    """What is written from now on, to `file` and to those that come after it."""
    try:
        while True:
            # Looked up before the rest is read: nothing is written to a file that has another in its place.
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
    """The file that lines are written to, when it isn't `file`; None too while there is none, as between two files."""
    with contextlib.suppress(FileNotFoundError):
        newest = _files(folder)[0].open("rb")
        if not os.path.sameopenfile(newest.fileno(), file.fileno()):
            return newest
        newest.close()
    return None


def _files(folder: Path) -> list[Path]:
    """The newest first."""
    return [folder / NAME, *(folder / f"{NAME}.{number}" for number in range(1, FILES))]


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
