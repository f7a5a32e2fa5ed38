"""A program that is run to its end, or ended with all that it started when its time is over."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

# What is kept of each stream, its end: no program fills this one's memory.
MOST_BYTES = 64 << 20
_CHUNK = 1 << 16
# A child that a program left behind may hold the streams open. The program's own output has arrived by then.
_LEFT_SECONDS = 1.0
_POLL_SECONDS = 0.02


# Looked up before a fork: between fork and exec nothing may be loaded.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_SET_PARENT_DEATH_SIGNAL = 1


def end_with_parent(number: signal.Signals) -> None:
    """Make Linux send this process a signal when its parent dies, so that a killed command leaves no process."""
    if _PRCTL is not None:
        _PRCTL(_SET_PARENT_DEATH_SIGNAL, number)


class OverTimeError(Exception):
    """A program did not end in its time, and was ended."""


@dataclass(frozen=True)
class Finished:
    """How a program ended, and the end of what it printed. `cut` is whether it printed more."""

    code: int
    stdout: str
    stderr: str
    cut: bool


def run(
    words: Sequence[str],
    seconds: float,
    input: str = "",  # noqa: A002 - as subprocess calls it
    env: Mapping[str, str] | None = None,
    most: int = MOST_BYTES,
) -> Finished:
    """Runs a program in a process group of its own, with `input` on its stdin.

    Raises OSError when it can't be started, OverTimeError after `seconds`. However this ends but by the program's own
    end, nothing that it started is left.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True)
    try:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        streams = [_Stream(process.stdout, most), _Stream(process.stderr, most)]
        threading.Thread(target=_write, args=(process.stdin, input.encode()), daemon=True).start()
        deadline = time.monotonic() + seconds
        # One wait without an end would miss a signal that comes just before it begins.
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise OverTimeError(f"it did not end within {seconds:g} s, and was ended")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        for stream in streams:
            stream.thread.join(_LEFT_SECONDS)
    except BaseException:
        end_group(process)
        raise
    stdout, stderr = (bytes(stream.kept).decode(errors="replace") for stream in streams)
    return Finished(process.returncode, stdout, stderr, any(stream.cut for stream in streams))


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads a group, and all in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Stream:
    """What a program prints to one of its streams, read by a thread."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most
        self.kept, self.cut = bytearray(), False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._file:
            while data := os.read(self._file.fileno(), _CHUNK):
                self.kept += data
                if len(self.kept) > 2 * self._most:
                    self.cut = True
                    del self.kept[: -self._most]


def _write(file: IO[bytes], data: bytes) -> None:
    # A program may end before it has read all.
    with contextlib.suppress(OSError), file:
        file.write(data)
