"""Ctrl-C and SIGTERM of a command: an exception, as Python's own handler raises it, that prints nothing by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_IMPORTING = "<frozen importlib._bootstrap>"


class Interrupted(KeyboardInterrupt):
    """A signal. Not KeyboardInterrupt itself, or Python ends by SIGINT when one went through an `exec`."""


class Interrupts:
    """The handler of both signals. After `came` is set, an error may be the interruption of an import."""

    def __init__(self) -> None:
        self.came: int | None = None
        self._stderr = -1

    def handle(self) -> None:
        """Handle both signals from now on, except those that the process ignores."""
        if self._stderr < 0:
            # Kept now: when a signal comes, stderr may be hidden, as it is while TensorFlow is imported.
            with contextlib.suppress(OSError):
                self._stderr = os.dup(2)
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGINT, self)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise Interrupted."""
        self.came = number
        while frame is not None and frame.f_code.co_filename != _IMPORTING:
            frame = frame.f_back
        if frame is not None:
            # numpy and TensorFlow print the traceback of an import that is interrupted, which helps nobody.
            with contextlib.suppress(OSError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, 2)
                os.close(nothing)
        raise Interrupted

    def end(self) -> NoReturn:
        """Exit with 128 and the signal's number, after one line on stderr."""
        with contextlib.suppress(OSError):
            if self._stderr >= 0:
                os.dup2(self._stderr, 2)
            os.write(2, b"\nStopped.\n")
        sys.exit(128 + (self.came or signal.SIGINT))
