"""Repeated ends of workers: a hint about the cause when several end in the same way."""

from __future__ import annotations

import signal
import time
from collections import deque

# This many ends within this many seconds are logged, at most once in that time.
MANY, SECONDS = 3, 60.0

_REASONS = {
    signal.SIGABRT: "TensorFlow ends the process when one of its checks fails, possibly because of a request",
    signal.SIGSEGV: "an operation accessed invalid memory, possibly because of a request",
    signal.SIGKILL: "the system kills processes when memory is short, and this server kills a worker that hangs",
}
_ELSE = "the process ended by itself"
_LOOK = "its last output is above. Requests that it was running are neither in the access log nor in the request log"


class Deaths:
    """Records how workers end."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()
        self._reported_at = -SECONDS

    def note(self, code: int, now: float | None = None) -> str:
        """Returns the line to log when a worker ended with the exit code `code`; empty unless many did."""
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
