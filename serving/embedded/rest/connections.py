"""All connections of a server: how many there may be, and that somebody looks after them."""

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
# How long a drain waits for the rest of a request of which a part is there.
HALF_SENT_SECONDS = 2.0


class Application(Protocol):
    """What answers requests; called in the event loop."""

    def take(self, exchange: Exchange) -> None:
        """Has a request answered, now or later."""

    def headers(self, kind: bytes) -> bytes:
        """Lines of its own for the head of an answer with a body of this content type."""

    def log_refusal(self, method: str, target: bytes, client: str, response: Response) -> None:
        """Notes an answer to what is no request."""


class Connections:
    """The connections, within `limits`. When there are too many, one that has no request makes room for the next."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.held = Held(limits.held_bytes)
        self.draining = False
        # By when what is half sent has to be there in a drain.
        self.drained = math.inf
        # The heads of this second's answers, by their status and content type.
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._date = ""
        self._there: set[Connection] = set()
        self._set_date()

    def admit(self, connection: Connection) -> bool:
        """Takes a connection; False when there is no room and all others are busy."""
        room = len(self._there) < self.limits.connections or self._make_room()
        self._there.add(connection)
        return room

    def lose(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        self._there.discard(connection)

    def look(self) -> None:
        """Ends what has taken too long; to be called at least once a second."""
        self._set_date()
        now = monotonic()
        for connection in [one for one in self._there if one.unsent or one.until <= now]:
            connection.look(now)

    def drain(self) -> None:
        """Has each connection end with the answer to the request that is there, or soon."""
        self.draining = True
        self.drained = monotonic() + HALF_SENT_SECONDS
        for connection in list(self._there):
            connection.drain()

    def open(self) -> bool:
        """Whether a drain has something to wait for. A client that was refused may take its time to see that."""
        return any(connection.busy or not connection.closing for connection in self._there)

    def busy(self) -> int:
        """How many requests are being answered, or their answers sent."""
        return sum(connection.busy for connection in self._there)

    def head(self, status: int, kind: bytes) -> bytes:
        """The head of an answer but for its end, with `%d` for the length of the body, of content type `kind`."""
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
