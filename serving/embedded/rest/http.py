"""HTTP requests and answers, as the face, the application and the connections share them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

JSON = b"application/json"
HTML = b"text/html"
TEXT = b"text/plain"
# The largest inflated body of the real server. It holds where there is no limit of this server's own.
MOST_UNPACKED = 100 * 2**20
# What is inflated at a time, and how much of it comes out at most.
_READ, _STEP = 2**16, 2**20


class Request(NamedTuple):
    """One HTTP request; `target` is the path as it was sent, query string included."""

    method: str
    target: bytes
    headers: Mapping[bytes, bytes] = MappingProxyType({})
    body: bytes = b""
    client: str = ""


class Response(NamedTuple):
    """One HTTP answer."""

    status: int
    body: bytes
    kind: bytes = JSON


class RefusedError(Exception):
    """A request that is too large or no HTTP: the status of its answer, and a text, or a page as the real server's."""

    def __init__(self, status: int, text: str, page: Response | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.page = page


def too_large(largest: float) -> RefusedError:
    """For a body of more than `largest` bytes, as it was sent or inflated."""
    return RefusedError(413, f"The body is larger than {largest:.0f} bytes")


def unpacked(request: Request, largest: int = 0) -> bytes:
    """The body, inflated if it is gzip; one that does not inflate counts as empty, as with the real server.

    It is inflated step by step. Raises RefusedError as soon as it has more than `largest` bytes; 0 is no limit.
    """
    if b"gzip" not in request.headers.get(b"content-encoding", b""):
        return request.body
    inflater = zlib.decompressobj(wbits=31)
    # It hands out what was written without a copy.
    inflated = io.BytesIO()
    for at in range(0, len(request.body), _READ):
        part = request.body[at : at + _READ]
        written = _STEP
        while part or written == _STEP:
            try:
                written = inflated.write(inflater.decompress(part, _STEP))
            except zlib.error:
                return b""
            part = inflater.unconsumed_tail
            if inflated.tell() > (largest or MOST_UNPACKED):
                if largest:
                    raise too_large(largest)
                return b""
        if inflater.eof:
            ends = not inflater.unused_data and at + _READ >= len(request.body)
            return inflated.getvalue() if ends else b""
    return b""


def page(status: int, title: str) -> Response:
    """The HTML that the real server answers with outside its API."""
    text = f"<HTML><HEAD>\n<TITLE>{status} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n</BODY></HTML>\n"
    return Response(status, text.encode(), HTML)
