"""The deaths of workers: what to look for when one after the other ends in the same way."""

from __future__ import annotations

import signal
import time
from collections import deque

# So many in so many seconds are no accident; that is said once in such a time.
MANY, SECONDS = 3, 60.0

_REASONS = {
    signal.SIGABRT: "TensorFlow ends the process when a check of its own fails, perhaps on what a request contains",
    signal.SIGSEGV: "an operation reads memory that it has not, perhaps for what a request contains",
    signal.SIGKILL: "the system ends a process when memory is short, and this server one that hangs",
}
_ELSE = "the process ended itself"
_LOOK = "what it printed last is above; a request that was in it is in no access log and in no request log"


class Deaths:
    """Notes how workers end."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()
        self._reported_at = -SECONDS

    def note(self, code: int, now: float | None = None) -> str:
        """The line to log when a worker ended with the exit code `code`; empty unless many did."""
        now = time.monotonic() if now is None else now
        self._noted.append((now, code))
        while self._noted[0][0] < now - SECONDS:
            self._noted.popleft()
        same = [when for when, noted in self._noted if noted == code]
        if len(same) < MANY or now < self._reported_at + SECONDS:
            return ""
        self._reported_at = now
        why = _REASONS.get(signal.Signals(-code), _ELSE) if code < 0 else _ELSE
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{len(same)} workers ended by {name} within {now - same[0]:.0f} s: {why}; {_LOOK}"
