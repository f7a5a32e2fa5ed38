"""What a long command is doing: one line on a terminal, else a line now and then."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from types import TracebackType

import click

_REPEAT_SECONDS = 10.0
_CLEAR = "\r\x1b[K"


class Progress:
    """Prints the current step to stderr.

    On a terminal it is one line that is rewritten, with the seconds since the step began. Elsewhere a line is printed
    every 10 seconds, also when the step stays the same. Steps that are shorter than that print nothing there.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._text = ""
        self._since = self._printed = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            self._clear()
            self._text = ""

    def update(self, text: str) -> None:
        """Set the current step. It costs little: call it as often as the step changes."""
        with self._lock:
            if text != self._text:
                self._text, self._since = text, time.monotonic()
                self._show()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._clear()
            click.echo(text, err=True)
            self._printed = time.monotonic()
            self._show()

    def _repeat(self) -> None:
        while not self._over.wait(1):
            with self._lock:
                self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if not self._text:
            return
        seconds = int(now - self._since)
        text = self._text + (f" ({seconds} s)" if seconds else "")
        if self._terminal:
            click.echo(_CLEAR + text[: shutil.get_terminal_size().columns - 1], err=True, nl=False, color=True)
        elif now - self._printed >= _REPEAT_SECONDS:
            self._printed = now
            click.echo(text, err=True)

    def _clear(self) -> None:
        if self._terminal and self._text:
            click.echo(_CLEAR, err=True, nl=False, color=True)
