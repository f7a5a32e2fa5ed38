"""A request on its way between its connection and the application."""

from __future__ import annotations

from collections.abc import Callable

from tfserving.serving.embedded.core import deadline
from tfserving.serving.embedded.rest import responses
from tfserving.serving.embedded.rest.http import Request, Response

TIMED_OUT = Response(504, responses.error(deadline.TIMED_OUT))


class Exchange:
    """A request and its deadline `until`, in seconds of time.monotonic.

    `wanted` becomes false when its client has left, or has got a timeout.
    """

    __slots__ = ("done", "request", "until", "wanted")

    def __init__(self, request: Request, until: float, done: Callable[[Exchange, Response], None]) -> None:
        """`done` takes the response, and must be called in the event loop."""
        self.request = request
        self.until = until
        self.wanted = True
        self.done = done

    def give_up(self) -> None:
        """Marks the request as no longer wanted, and frees its body, which otherwise waits for a thread."""
        self.wanted = False
        self.request = Request(self.request.method, self.request.target, client=self.request.client)
