"""Inputs of a command: a file, a pipe, or standard input."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from pathlib import Path

# No configuration and no request is larger; a device has no end.
LARGEST_TEXT = 256 * 1024 * 1024
# Seconds to wait for the first byte of a pipe.
LONGEST_SILENCE = 10.0
STDIN = "-"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class UnreadableError(OSError):
    """A file can't be read as text. `strerror` has the reason, as in every OSError."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(errno.EILSEQ, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class NotTextError(UnreadableError):
    """A file is not UTF-8."""


def given_text(path: Path | str, largest: int = LARGEST_TEXT) -> str:
    """The text of the file `path`, which is UTF-8; `-` is standard input.

    Raises OSError: NotTextError for other text, UnreadableError for more than `largest` bytes, for a pipe without
    a writer and for a standard input that is closed.
    """
    data = given_bytes(path, largest)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"it is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}"
        if data.startswith(_UTF16):
            found += ". It looks like UTF-16, which PowerShell's > writes; save it as UTF-8"
        raise NotTextError(_named(path), found) from None


def given_bytes(path: Path | str, largest: int = LARGEST_TEXT) -> bytes:
    """The bytes of the file `path`, or of standard input for `-`. Raises OSError as `given_text` does."""
    if str(path) == STDIN:
        if sys.stdin is None:
            raise UnreadableError(_named(path), "it is closed")
        # The text of a test, or of another program's, may have no bytes beneath it.
        data = sys.stdin.buffer.read(largest + 1)
    else:
        with open(path, "rb", opener=_open) as file:
            data = file.read(largest + 1)
    if len(data) > largest:
        raise UnreadableError(_named(path), f"larger than {largest} bytes")
    return data


def _named(path: Path | str) -> str:
    return "standard input" if str(path) == STDIN else str(path)


def _open(path: str, flags: int) -> int:
    """Open a file; wait for the first data of a pipe, but not for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN | select.POLLHUP)
            if not waiting.poll(LONGEST_SILENCE * 1000):
                raise UnreadableError(path, f"no data arrived on this pipe for {LONGEST_SILENCE:g} s")
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
