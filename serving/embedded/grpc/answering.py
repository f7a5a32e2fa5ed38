"""What both transports do with a call: run its method, log it, refuse it; and how a drain waits for clients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from time import monotonic

from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.grpc.face import Method
from tfserving.serving.embedded.observability.access_log import AccessLog

log = logging.getLogger(__name__)

LONGEST_DETAILS = 1024
CONTROL_THREADS = 2
# Calls that wait for a thread, when nothing else is said; each takes some kilobytes.
MOST_CALLS = 10_000
MOST_STREAMS = 2_000
# A drain holds answers back until for so many ticks nothing came, and at most so long.
TICK_SECONDS, QUIET_TICKS, LONGEST_HOLD_SECONDS = 0.01, 10, 1.0

Result = tuple[Code | None, bytes | str]


class Answering:
    """A method by its full name, run for one call after the other."""

    def __init__(self, name: str, method: Method, *, explain: bool, access_log: AccessLog | None) -> None:
        """`explain` is for the details of a status."""
        self.name = name
        self._method = method
        self._explain = explain
        self._access_log = access_log

    def answer(self, data: bytes, until: float | None, peer: str | Callable[[], str]) -> Result:
        """None and the response's bytes, or a code and its details; never raises.

        Nobody waits for it after `until`, in seconds of `time.monotonic`. `peer` is, or returns, who called.
        """
        deadline.until = until
        if self._access_log is None:
            return self._run(data)
        began = self._access_log.begin()
        code, result = self._run(data)
        self._access_log.write(
            began,
            "grpc",
            method=self.name,
            client=peer if isinstance(peer, str) else peer(),
            status="OK" if code is None else code.name,
            request_bytes=len(data),
            response_bytes=0 if code else len(result),
        )
        return code, result

    def _run(self, data: bytes) -> Result:
        try:
            return None, self._method(data)
        except RequestError as error:
            code, details = error.code, error.say(explain=self._explain)
        except Exception as error:
            log.exception("a gRPC request failed")
            code, details = Code.INTERNAL, f"{type(error).__name__}: {error}"
        if len(details) > LONGEST_DETAILS:
            details = details[:LONGEST_DETAILS] + "...TRUNCATED"
        return code, details


def full(most: int) -> str:
    """The details of a call that is one too many."""
    return f"{most} requests are in flight already, no more are taken; try again later"


def unknown(*, explain: bool) -> str:
    """The details of a call of a method that there is not; TensorFlow Serving has none."""
    return "this server has no such method" if explain else ""


def wait_until_quiet(calls: Callable[[], int]) -> None:
    """Returns when no more calls come, while answers are held back; `calls` returns how many there were.

    Clients that wait for an answer send no others, those that just had one may be about to. A tick that comes late says
    that the machine is busy, and that they may be late, too.
    """
    quiet, seen, until = 0, -1, monotonic() + LONGEST_HOLD_SECONDS
    while quiet < QUIET_TICKS and (now := monotonic()) < until:
        time.sleep(TICK_SECONDS)
        late = monotonic() - now > 2 * TICK_SECONDS
        quiet = 0 if late or calls() != seen else quiet + 1
        seen = calls()
