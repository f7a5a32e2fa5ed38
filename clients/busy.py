"""Calls to a busy server: sent again after a pause, and fewer at a time.

TensorFlow Serving rejects each gRPC call that exceeds `--grpc_max_threads`, with RESOURCE_EXHAUSTED and a text of gRPC
(https://github.com/grpc/grpc/blob/v1.66.0/src/cpp/server/server_cc.cc). The call is rejected unread, so every call may
be sent again. The server's metrics page doesn't count rejected calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfserving.clients.errors import BUSY, ResourceExhausted, ServingError
from tfserving.clients.steps import Result, Retries

if TYPE_CHECKING:
    from tfserving.clients.client import Client

REFUSAL = f"{ResourceExhausted.code}: {BUSY}"
# Pauses are random, and up to a second after the fifth refusal of a call.
_PAUSES = Retries(first_pause=0.05, longest_pause=1.0)
_LONGEST_FROM = 6


def is_busy(error: ServingError) -> bool:
    """Return whether a server rejected a call because all of its threads were busy."""
    return isinstance(error, ResourceExhausted) and error.text == BUSY


@dataclass(frozen=True)
class Refusals:
    """How often `server` was busy. The first limit of calls at a time was `most`, the last one `at_a_time`."""

    server: str
    refused: int
    most: int
    at_a_time: int

    def __str__(self) -> str:
        times = "once" if self.refused == 1 else f"{self.refused} times"
        fewer, all_of_them = "", "all of its clients"
        if self.at_a_time < self.most:
            fewer, all_of_them = f", {self.at_a_time} at a time", f"{self.most} at a time"
        return (
            f"the server {self.server} was busy {times} ({REFUSAL}). These requests were sent again{fewer}. "
            f"Its --grpc_max_threads is too low for {all_of_them}"
        )


class Patient:
    """Calls of `client` that wait for a busy server. Several threads can use it at once.

    At most `at_a_time` calls are in flight. This limit is halved, down to 1, when one of several calls is rejected.
    Other calls in flight at that moment don't halve it again.
    """

    def __init__(self, client: Client, at_a_time: int = 1) -> None:
        self.client = client
        self._most = self._at_a_time = at_a_time
        self._sent = self._refused = 0
        self._gave_up = False
        self._changed = threading.Condition()

    @property
    def refusals(self) -> Refusals | None:
        """How often the server was busy; None if it never was."""
        found = Refusals(self.client.server, self._refused, self._most, self._at_a_time)
        return found if self._refused else None

    def call(self, send: Callable[[float], Result], timeout: float) -> Result:
        """Return the result of `send`, which is called again while the server is busy.

        `send` gets the seconds left for the call. Waiting for other calls in flight doesn't count in `timeout`. When
        the time is over, the server's error is raised. From then on every such error is raised at once, so that a
        server that serves nothing is waited for only once.
        """
        left, attempt = timeout, 0
        while True:
            at_a_time, started = self._begin(), time.monotonic()
            try:
                return send(left)
            except ResourceExhausted as error:
                if not is_busy(error):
                    raise
                self._note_refusal(at_a_time)
                refusal = error
            finally:
                self._end()
            attempt += 1
            pause = _PAUSES.pause(min(attempt, _LONGEST_FROM))
            left -= time.monotonic() - started + pause
            if self._gave_up or left <= 0:
                self._gave_up = True
                raise refusal
            time.sleep(pause)

    def _begin(self) -> int:
        """Wait until one more call may be sent, and return the current limit."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent < self._at_a_time)
            self._sent += 1
            return self._at_a_time

    def _note_refusal(self, at_a_time: int) -> None:
        with self._changed:
            self._refused += 1
            if self._sent > 1 and at_a_time == self._at_a_time:
                self._at_a_time = max(1, at_a_time // 2)

    def _end(self) -> None:
        with self._changed:
            self._sent -= 1
            self._changed.notify_all()
