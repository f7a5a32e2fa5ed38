"""Bytes from a client become requests, within limits.

llhttp parses: https://llhttp.org. It stops where a client would like to speak another protocol (`Upgrade: h2c`, which
Java's HttpClient and `curl --http2` send by default). A server may ignore that, RFC 9110 section 7.8: the parser gets
the same head again, without the wish, and goes on with the body.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import httptools

from tfserving.serving.embedded.rest.http import RefusedError, Request, page, too_large
from tfserving.serving.embedded.rest.limits import SMALL, Limits
from tfserving.serving.embedded.rest.urls import AUTHORITY

# What is parsed at a time: the requests in it may come before the answer to the first.
SLICE = 2**14
# Parts of a body that are smaller are put together as they come: each costs some fifty bytes more than it has.
_SMALL_PART = 2**14
_WISHES = (b"upgrade", b"http2-settings")
_WITH_BODY = ("POST", "PUT", "PATCH")
_CONTINUE = b"100-continue"
_FORWARDED = b"x-forwarded-for"


class Reader:
    """Parses what one connection brings.

    `requests` are those that are complete. `begun` is whether another has begun, `in_body` whether its body has. After
    the `last` request nothing more is read, because its client said so.
    """

    def __init__(self, limits: Limits, client: str, expected: Callable[[], None], room: Callable[[int], bool]) -> None:
        """`expected` is called when a client waits for the permission to send its body.

        `room` gets the size of a body that grows, and returns whether there is room for it.
        """
        self.requests: deque[Request] = deque()
        self.begun = self.in_body = self.last = False
        self.method = ""
        self.target = b""
        self._limits = limits
        self._client = client
        self._expected = expected
        self._room = room
        self._headers: dict[bytes, bytes] = {}
        # A body that comes at once is not copied, one in parts is put together in the end.
        self._parts: list[bytes] = []
        self._size = 0
        # How much of the body is still to come, if the head has its length.
        self._left = 0
        # How many bytes came since anything began: a head, a chunk, a part of a body.
        self._since = 0
        self._refused: RefusedError | None = None
        self._parser = httptools.HttpRequestParser(self)
        # What comes after the last request is no error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed(self, data: memoryview) -> int:
        """Parses the beginning of `data`; how much of it. Raises RefusedError; then there is nothing more to read."""
        size = min(len(data), self._left or SLICE)
        part = data[:size] if size < len(data) else data
        self._since += size
        try:
            while True:
                try:
                    self._parser.feed_data(part)
                    break
                except httptools.HttpParserUpgrade as wish:
                    self._parser.feed_data(self._head_without_wishes())
                    part = part[wish.args[0] :]
        except httptools.HttpParserError as error:
            if self._refused is not None:
                raise self._refused from None
            if not self.last:
                raise _nonsense(error) from None
        if self._since > self._limits.head_bytes and not self._left:
            raise self._head_too_large()
        return size

    # What follows is called by the parser.

    def on_message_begin(self) -> None:
        """A head begins."""
        self.begun = not self.last
        self.method, self.target = "", b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those that come after a body don't count. Of several with one name the first counts."""
        if self.in_body:
            return
        name = name.lower()
        if name not in self._headers:
            self._headers[name] = value
        elif name == _FORWARDED:
            # Every proxy may add a line of its own, and the last one is the one to trust.
            self._headers[name] += b", " + value

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self.last:
            return
        parser, headers = self._parser, self._headers
        self.method = parser.get_method().decode()
        if parser.should_upgrade():
            if self.method == "CONNECT":
                self._refuse(_not_implemented())
            return
        if self._since > self._limits.head_bytes:
            size = len(self.target) + sum(len(name) + len(value) + 4 for name, value in headers.items())
            if size > self._limits.head_bytes:
                self._refuse(self._head_too_large())
        expects = headers[b"expect"].rstrip().lower() if b"expect" in headers and self._takes_body() else None
        if expects not in (None, _CONTINUE):
            self._refuse(RefusedError(417, "Expectation Failed", page(417, "Expectation Failed")))
        if b"content-length" in headers:
            self._left = int(headers[b"content-length"])
            if self._left > self._limits.body_bytes:
                self._refuse(too_large(self._limits.body_bytes))
        self.in_body = True
        self._since = 0
        if expects is not None:
            self._expected()

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._since = 0

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if self.last:
            return
        self._since = 0
        self._left = max(0, self._left - len(body))
        self._size += len(body)
        if self._size > self._limits.body_bytes:
            self._refuse(too_large(self._limits.body_bytes))
        if self._size > SMALL and not self._room(self._size):
            self._refuse(RefusedError(503, "The server holds as many bytes of bodies as it may; try again later"))
        if self._parts and len(body) < _SMALL_PART and len(self._parts[-1]) < _SMALL_PART:
            self._parts[-1] += body
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        parser = self._parser
        if self.last or parser.should_upgrade():
            return
        self.last = not parser.should_keep_alive() or parser.get_http_version() == "1.0"
        # What a proxy would be sent, http://host/path, is answered too.
        target = self.target if self.target.startswith(b"/") else AUTHORITY.sub(b"", self.target, 1)
        body = b"".join(self._parts)
        self.requests.append(Request(self.method, target, self._headers, body, self._client))
        self.begun = self.in_body = False
        # What comes next may be no request, and is answered by no other one's method.
        self.method = ""
        self._parts.clear()
        self._size = self._left = self._since = 0

    def _takes_body(self) -> bool:
        """Whether a body follows that the real server reads: else it does not look at `Expect`."""
        headers = self._headers
        has_body = b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > 0
        return has_body and self.method in _WITH_BODY and self._parser.get_http_version() != "1.0"

    def _head_without_wishes(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.method.encode(), self.target, self._parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self._headers.items() if header[0] not in _WISHES]
        return b"\r\n".join((*lines, b"", b""))

    def _head_too_large(self) -> RefusedError:
        most = self._limits.head_bytes
        return RefusedError(431, f"The request line and the headers are larger than {most:.0f} bytes")

    def _refuse(self, reason: RefusedError) -> None:
        # For what its callbacks raise the parser has an exception of its own.
        self._refused = reason
        raise reason


def _nonsense(error: httptools.HttpParserError) -> RefusedError:
    """The real server's words for what is no HTTP."""
    unknown = isinstance(error, httptools.HttpParserInvalidMethodError)
    return _not_implemented() if unknown else RefusedError(400, "Bad Request", page(400, "Bad Request"))


def _not_implemented() -> RefusedError:
    return RefusedError(501, "Not Implemented", page(501, "Not Implemented"))
