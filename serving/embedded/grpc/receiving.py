"""Receives the message of a call, with a timeout and without blocking the threads of the pool.

A client can begin a call and send its message slowly, or never. grpcio waits for it in the thread that runs the call.
While the thread waits, it steps aside. A call is cancelled when its message takes longer than the timeout. When too
many calls are slow at a time, the oldest are cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import grpc

from tfserving.serving.embedded.core.pool import MOST_ASIDE, begin_waiting, end_waiting

# A call is slow when its message takes longer than this.
SLOW_SECONDS = 1.0
MOST_SLOW = MOST_ASIDE // 2
# How long a drain waits for a message that is being sent.
LAST_CALL_SECONDS = 0.5
_TICK_SECONDS = 0.25


class Receiving:
    """Reads the one message of each call, which must arrive within `seconds`; None is no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._longest = seconds
        self._since: dict[Any, float] = {}
        threading.Thread(target=self._watch, name="grpc-receiving", daemon=True).start()

    def read(self, messages: Iterator[bytes], context: Any) -> bytes | None:
        """Returns the message of the call `context`; None when there is none, or the call is cancelled."""
        self._since[context] = monotonic()
        begin_waiting()
        try:
            return next(messages, None)
        except grpc.RpcError:
            return None
        finally:
            end_waiting()
            self._since.pop(context, None)

    def hurry(self) -> None:
        """Reduces the timeout to a moment, for a drain."""
        self._longest = LAST_CALL_SECONDS

    def _watch(self) -> None:
        while True:
            sleep(_TICK_SECONDS)
            now = monotonic()
            waiting = sorted(self._since.copy().items(), key=lambda one: one[1])
            slow = [context for context, since in waiting if now - since > SLOW_SECONDS]
            late = [context for context, since in waiting if self._longest and now - since > self._longest]
            for context in {*late, *slow[: max(0, len(slow) - MOST_SLOW)]}:
                context.cancel()
