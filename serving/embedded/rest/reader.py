"""Parses requests from a client's bytes, within limits.

The parser is llhttp: https://llhttp.org. It stops when a client offers to switch protocols (`Upgrade: h2c`, which
Java's HttpClient and `curl --http2` send by default). A server may ignore that, RFC 9110 section 7.8. So the parser
gets the same head again, without the offer, and continues with the body.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import httptools

from tfserving.serving.embedded.rest.http import RefusedError, Request, page, too_large
from tfserving.serving.embedded.rest.limits import SMALL, Limits
from tfserving.serving.embedded.rest.urls import AUTHORITY

# The bytes that are parsed at a time. They may contain several requests.
SLICE = 2**14
# Smaller parts of a body are joined as they arrive: each takes some fifty bytes of overhead.
_SMALL_PART = 2**14
_OFFERS = (b"upgrade", b"http2-settings")
_WITH_BODY = ("POST", "PUT", "PATCH")
_CONTINUE = b"100-continue"
_FORWARDED = b"x-forwarded-for"


class Reader:
    """Parses the bytes of one connection.

    `requests` are the complete requests. `begun` is whether another has begun, `in_body` whether its body has. After
    the `last` request, as marked by the client, no more is read.
    """

    def __init__(self, limits: Limits, client: str, expected: Callable[[], None], room: Callable[[int], bool]) -> None:
        """`expected` is called when a client waits for permission to send its body.

        `room` takes the size of a growing body, and returns whether there is room for it.
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
        # A body in one part is not copied. Parts are joined at the end.
        self._parts: list[bytes] = []
        self._size = 0
        # The bytes of the body that are missing, if the head has its length.
        self._left = 0
        # The bytes since the last beginning of a head, a chunk or a part of a body.
        self._since = 0
        self._refused: RefusedError | None = None
        self._parser = httptools.HttpRequestParser(self)
        # Bytes after the last request are not an error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed(self, data: memoryview) -> int:
        """Parses the beginning of `data`; returns its size. Raises RefusedError; then no more can be read."""
        size = min(len(data), self._left or SLICE)
        part = data[:size] if size < len(data) else data
        self._since += size
        try:
            while True:
                try:
                    self._parser.feed_data(part)
                    break
                except httptools.HttpParserUpgrade as offer:
                    self._parser.feed_data(self._head_without_offer())
                    part = part[offer.args[0] :]
        except httptools.HttpParserError as error:
            if self._refused is not None:
                raise self._refused from None
            if not self.last:
                raise _invalid(error) from None
        if self._since > self._limits.head_bytes and not self._left:
            raise self._head_too_large()
        return size

    # The parser calls the methods below.

    def on_message_begin(self) -> None:
        """Begins a head."""
        self.begun = not self.last
        self.method, self.target = "", b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        """Adds a part of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds a header. Headers after a body are ignored, and so are later ones with the same name."""
        if self.in_body:
            return
        name = name.lower()
        if name not in self._headers:
            self._headers[name] = value
        elif name == _FORWARDED:
            # Every proxy may add its own line, and the last one is the most trustworthy.
            self._headers[name] += b", " + value

    def on_headers_complete(self) -> None:
        """Checks a complete head."""
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
        """Begins a chunk."""
        self._since = 0

    def on_body(self, body: bytes) -> None:
        """Adds a part of a body."""
        if self.last:
            return
        self._since = 0
        self._left = max(0, self._left - len(body))
        self._size += len(body)
        if self._size > self._limits.body_bytes:
            self._refuse(too_large(self._limits.body_bytes))
        if self._size > SMALL and not self._room(self._size):
            self._refuse(RefusedError(503, "The memory for request bodies is full; try again later"))
        if self._parts and len(body) < _SMALL_PART and len(self._parts[-1]) < _SMALL_PART:
            self._parts[-1] += body
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Adds a complete request."""
        parser = self._parser
        if self.last or parser.should_upgrade():
            return
        self.last = not parser.should_keep_alive() or parser.get_http_version() == "1.0"
        # The form for proxies, http://host/path, is accepted too.
        target = self.target if self.target.startswith(b"/") else AUTHORITY.sub(b"", self.target, 1)
        body = b"".join(self._parts)
        self.requests.append(Request(self.method, target, self._headers, body, self._client))
        self.begun = self.in_body = False
        # The next bytes may be invalid. Then the response must not depend on this method.
        self.method = ""
        self._parts.clear()
        self._size = self._left = self._since = 0

    def _takes_body(self) -> bool:
        """Returns whether a body follows that TensorFlow Serving reads. Otherwise it ignores `Expect`."""
        headers = self._headers
        has_body = b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > 0
        return has_body and self.method in _WITH_BODY and self._parser.get_http_version() != "1.0"

    def _head_without_offer(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.method.encode(), self.target, self._parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self._headers.items() if header[0] not in _OFFERS]
        return b"\r\n".join((*lines, b"", b""))

    def _head_too_large(self) -> RefusedError:
        most = self._limits.head_bytes
        return RefusedError(431, f"The request line and the headers are larger than {most:.0f} bytes")

    def _refuse(self, reason: RefusedError) -> None:
        # The parser replaces exceptions of its callbacks with its own.
        self._refused = reason
        raise reason


def _invalid(error: httptools.HttpParserError) -> RefusedError:
    """Returns TensorFlow Serving's error for invalid HTTP."""
    unknown = isinstance(error, httptools.HttpParserInvalidMethodError)
    return _not_implemented() if unknown else RefusedError(400, "Bad Request", page(400, "Bad Request"))


def _not_implemented() -> RefusedError:
    return RefusedError(501, "Not Implemented", page(501, "Not Implemented"))
