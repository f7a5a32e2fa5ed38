"""The deadline of the request that a thread runs: set by the transport, passed on to TensorFlow."""

from __future__ import annotations

import threading
from time import monotonic

from tfserving.serving.embedded.errors import Code, RequestError

# TensorFlow's text for a cancelled run.
TIMED_OUT = "Timed out waiting for notification"


class Deadline(threading.local):
    """The deadline of this thread's request, in seconds of `time.monotonic`; None: no limit."""

    until: float | None = None

    def left(self) -> float | None:
        """Returns the seconds that are left, at least 0; None: no limit."""
        return None if self.until is None else max(0.0, self.until - monotonic())


deadline = Deadline()


def too_late() -> RequestError:
    """Returns the error of a request whose deadline has passed."""
    return RequestError(Code.DEADLINE_EXCEEDED, TIMED_OUT)
