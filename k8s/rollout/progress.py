"""Progress of a rollout on stderr: a line with its time for each step, and one live line while it waits."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import click

from tfserving.clients.printable import printable

if TYPE_CHECKING:
    from types import TracebackType

    from rich.status import Status

# Where there is no terminal, what is waited for is printed this often.
_WAITING_SECONDS = 10.0
# What happens, what is waited for, how it ended.
Kind: TypeAlias = Literal["step", "waiting", "good", "bad"]
_COLOURS = {"good": "green", "bad": "red"}


class Say(Protocol):
    """Gets a line of progress. A line that is `waiting` takes the place of the one before; it may come every second."""

    def __call__(self, text: str, kind: Kind = "step") -> None:
        """Shows it."""


class Progress:
    """Shows progress on stderr until it is closed; where there is no terminal, a waiting line every `seconds`."""

    def __init__(self, seconds: float = _WAITING_SECONDS) -> None:
        self._seconds = seconds
        self._printed = time.monotonic()
        self._live: Status | None = None

    def __call__(self, text: str, kind: Kind = "step") -> None:
        """See Say."""
        if kind == "waiting" and self._shown(text):
            return
        if kind == "waiting" and time.monotonic() - self._printed < self._seconds:
            return
        self.close()
        self._printed = time.monotonic()
        click.echo(line(datetime.now().astimezone(), text, kind), err=True)

    def close(self) -> None:
        """Takes the live line away."""
        if self._live:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shown(self, text: str) -> bool:
        """Shows the live line, where there is a terminal."""
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
    """A line that begins with its local time; what follows a line end in `text` is below what stands before it."""
    clock, indent = f"{at.astimezone():%H:%M:%S}", " " * (len(text) - len(text.lstrip(" ")))
    first, *more = (click.style(printable(part), fg=_COLOURS.get(kind)) for part in text.split("\n"))
    below = (f"{' ' * len(clock)}  {indent}{part}" for part in more)
    return "\n".join([f"{click.style(clock, dim=True)}  {first}", *below])
