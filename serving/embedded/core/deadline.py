"""Until when the request that a thread runs may run: what a transport knows, and TensorFlow is told."""

from __future__ import annotations

import threading
from time import monotonic

from tfserving.serving.embedded.errors import Code, RequestError

# TensorFlow's words for a run that is cancelled.
TIMED_OUT = "Timed out waiting for notification"


class Deadline(threading.local):
    """After which moment of `time.monotonic` nobody waits for this thread's request; None: no limit."""

    until: float | None = None

    def left(self) -> float | None:
        """How many seconds are left, not less than 0; None: no limit."""
        return None if self.until is None else max(0.0, self.until - monotonic())


deadline = Deadline()


def too_late() -> RequestError:
    """The error of a request whose time is over."""
    return RequestError(Code.DEADLINE_EXCEEDED, TIMED_OUT)
