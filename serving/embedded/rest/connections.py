"""All connections of a server: their limit, and the check of their timeouts."""

from __future__ import annotations

import math
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic, time
from typing import TYPE_CHECKING, Protocol

from tfserving.serving.embedded.rest.limits import Held, Limits

if TYPE_CHECKING:
    from tfserving.serving.embedded.rest.connection import Connection
    from tfserving.serving.embedded.rest.exchange import Exchange
    from tfserving.serving.embedded.rest.http import Response

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
# How long a drain waits for the rest of a request that has arrived in part.
HALF_SENT_SECONDS = 2.0


class Application(Protocol):
    """The application as a connection sees it; called in the event loop."""

    def take(self, exchange: Exchange) -> None:
        """Runs a request, now or later."""

    def headers(self, kind: bytes) -> bytes:
        """Returns additional header lines of a response with this content type."""

    def log_refusal(self, method: str, target: bytes, client: str, response: Response) -> None:
        """Logs the response to an invalid or incomplete request."""


class Connections:
    """The connections, within `limits`. When there are too many, a new one replaces one without a request."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.held = Held(limits.held_bytes)
        self.draining = False
        # In a drain: the deadline of incomplete requests.
        self.drained = math.inf
        # The response heads of this second, by status and content type.
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._date = ""
        self._there: set[Connection] = set()
        self._set_date()

    def admit(self, connection: Connection) -> bool:
        """Adds a connection; returns False when there is no room and all others are busy."""
        room = len(self._there) < self.limits.connections or self._make_room()
        self._there.add(connection)
        return room

    def lose(self, connection: Connection) -> None:
        """Removes a closed connection."""
        self._there.discard(connection)

    def look(self) -> None:
        """Ends connections whose time is over. Call it at least once a second."""
        self._set_date()
        now = monotonic()
        for connection in [one for one in self._there if one.unsent or one.until <= now]:
            connection.look(now)

    def drain(self) -> None:
        """Ends each connection after the response to its present request, or soon."""
        self.draining = True
        self.drained = monotonic() + HALF_SENT_SECONDS
        for connection in list(self._there):
            connection.drain()

    def open(self) -> bool:
        """Returns whether a drain has to wait. Clients that were refused may take their time to close."""
        return any(connection.busy or not connection.closing for connection in self._there)

    def busy(self) -> int:
        """Returns the number of requests that run, or whose responses are being sent."""
        return sum(connection.busy for connection in self._there)

    def head(self, status: int, kind: bytes) -> bytes:
        """Returns a response head without its end, with `%d` for the length of the body of content type `kind`."""
        head = self._heads.get((status, kind))
        if head is None:
            line = f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ndate: {self._date}\r\n".encode()
            own = self.application.headers(kind)
            head = line + b"content-type: " + kind + b"\r\ncontent-length: %d\r\n" + own
            self._heads[status, kind] = head
        return head

    def _make_room(self) -> bool:
        idle = [connection for connection in self._there if not (connection.busy or connection.closing)]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.until).make_room()
        return True

    def _set_date(self) -> None:
        self._date = formatdate(time(), usegmt=True)
        self._heads.clear()
