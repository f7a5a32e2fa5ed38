"""Ctrl-C of a command: an exception, as Python's own handler raises it, that says nothing by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
_IMPORTING = "<frozen importlib._bootstrap>"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. Not KeyboardInterrupt itself, or Python ends by SIGINT when one went through an `exec`."""


class Interrupts:
    """The handler of Ctrl-C. `came` is whether one came: what was imported then may have made another error of it."""

    def __init__(self) -> None:
        self.came = False
        self._stderr = -1

    def handle(self) -> None:
        """Handles Ctrl-C from now on, unless the process ignores it."""
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGINT, self)

    def __call__(self, _number: int, frame: FrameType | None) -> None:
        """The handler itself."""
        self.came = True
        while frame is not None and frame.f_code.co_filename != _IMPORTING:
            frame = frame.f_back
        if frame is not None and self._stderr < 0:
            # numpy and TensorFlow print the traceback of an import that is interrupted; nobody wants to read that.
            with contextlib.suppress(OSError):
                self._stderr = os.dup(2)
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, 2)
                os.close(nothing)
        raise Interrupted

    def end(self) -> NoReturn:
        """Ends the process as one that was interrupted."""
        with contextlib.suppress(OSError):
            if self._stderr >= 0:
                os.dup2(self._stderr, 2)
            os.write(2, b"\nInterrupted.\n")
        sys.exit(INTERRUPTED)
