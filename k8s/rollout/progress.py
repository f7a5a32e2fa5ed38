"""Progress of a rollout on stderr: a line with the time for each step, and one live line while it waits."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import click

from tfserving.clients.printable import printable

if TYPE_CHECKING:
    from types import TracebackType

    from rich.status import Status

# Without a terminal, a line of waiting is printed this often.
_WAITING_SECONDS = 10.0
_TICK_SECONDS = 1.0
# A step, a line of waiting, the end.
Kind: TypeAlias = Literal["step", "waiting", "good", "bad"]
_COLOURS = {"good": "green", "bad": "red"}


class Log(Protocol):
    """Receives lines of progress. A `waiting` line replaces the one before; it may come every second."""

    def __call__(self, text: str, kind: Kind = "step") -> None:
        """Show a line."""


class Progress:
    """Shows progress on stderr while it is entered.

    A terminal shows one live line of what is waited for. Elsewhere such a line is printed every `seconds`. Without
    calls, the line shows the time since the last step.
    """

    def __init__(self, seconds: float = _WAITING_SECONDS) -> None:
        self._seconds = seconds
        self._printed = self._updated = self._began = time.monotonic()
        self._live: Status | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __call__(self, text: str, kind: Kind = "step") -> None:
        """See Log."""
        with self._lock:
            self._updated = time.monotonic()
            if kind == "waiting":
                self._wait(text)
                return
            self._close()
            self._printed = self._began = self._updated
            click.echo(line(datetime.now().astimezone(), text, kind), err=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._close()

    def _tick(self) -> None:
        """Show that the rollout still waits, when nothing was shown for a while."""
        while not self._over.wait(_TICK_SECONDS):
            with self._lock:
                now = time.monotonic()
                if now - self._updated > 2 * _TICK_SECONDS:
                    self._wait(f"  in progress for {now - self._began:.0f} s")

    def _wait(self, text: str) -> None:
        """Show a line of waiting: live on a terminal, else if none was printed for a while."""
        now = time.monotonic()
        if self._shown(text) or now - self._printed < self._seconds:
            return
        self._printed = now
        click.echo(line(datetime.now().astimezone(), text, "waiting"), err=True)

    def _close(self) -> None:
        """Remove the live line."""
        if self._live:
            self._live.stop()
            self._live = None

    def _shown(self, text: str) -> bool:
        """Show the live line if stderr is a terminal; return whether it is."""
        from rich.console import Console
        from rich.text import Text

        shown = Text(printable(text.strip()))
        if self._live:
            self._live.update(shown)
            return True
        console = Console(stderr=True)
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = console.status(shown)
            self._live.start()
        return self._live is not None


def line(at: datetime, text: str, kind: Kind = "step") -> str:
    """Return a line that begins with its local time; further lines of `text` are indented below the first."""
    clock, indent = f"{at.astimezone():%H:%M:%S}", " " * (len(text) - len(text.lstrip(" ")))
    first, *more = (click.style(printable(part), fg=_COLOURS.get(kind)) for part in text.split("\n"))
    below = (f"{' ' * len(clock)}  {indent}{part}" for part in more)
    return "\n".join([f"{click.style(clock, dim=True)}  {first}", *below])
