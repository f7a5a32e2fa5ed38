"""A request between the connection that it came on and the application that answers it."""

from __future__ import annotations

from collections.abc import Callable

from tfserving.serving.embedded.core import deadline
from tfserving.serving.embedded.rest import responses
from tfserving.serving.embedded.rest.http import Request, Response

TIMED_OUT = Response(504, responses.error(deadline.TIMED_OUT))


class Exchange:
    """A request on its way to its answer; `until` is when nobody waits any longer, in seconds of time.monotonic.

    `wanted` becomes false when its client has left, or was told that it took too long.
    """

    __slots__ = ("done", "request", "until", "wanted")

    def __init__(self, request: Request, until: float, done: Callable[[Exchange, Response], None]) -> None:
        """`done` is to be called in the event loop."""
        self.request = request
        self.until = until
        self.wanted = True
        self.done = done

    def give_up(self) -> None:
        """Nobody waits for the answer any more. What was sent isn't kept until a thread would have had time for it."""
        self.wanted = False
        self.request = Request(self.request.method, self.request.target, client=self.request.client)
