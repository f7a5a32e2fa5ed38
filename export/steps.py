"""The steps of an export: what is printed of them, and how long they took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfserving.export.edge_requests import LeftOut
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.golden import GoldenRequest


@dataclass
class Steps:
    """Prints the steps of the export of `model`, and measures them."""

    model: str
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, text: str, *, of_user: bool = False) -> Iterator[None]:
        """Run a step, or a repetition of it.

        One that runs code `of_user`, which may print, has no line on a terminal that is rewritten.
        """
        if of_user and sys.stderr.isatty():
            self.note(text)
        else:
            self.now(text)
        start = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)

    def now(self, text: str) -> None:
        """Set the current step."""
        self.progress.update(f"{self.model}: {text}")

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.progress.line(f"{self.model}: {text}")

    def leave_out(self, edges: LeftOut) -> None:
        """Record edge values that no golden request contains, and print them unless that is normal."""
        self.left_out.append(edges)
        if not edges.is_normal:
            self.note(str(edges))

    def counted(self, requests: Iterable[GoldenRequest]) -> Iterator[GoldenRequest]:
        """Yield `requests`, and print how many there were so far."""
        for number, request in enumerate(requests, 1):
            self.now(f"running golden request {number} in the live model and a fresh process")
            yield request
        self.now("comparing the outputs of the fresh process")
