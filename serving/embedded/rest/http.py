"""HTTP requests and answers, as the face and the application that reads them share them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

JSON = b"application/json"
HTML = b"text/html"
TEXT = b"text/plain"
# What a compressed body may come to; the real server's limit.
MOST_UNPACKED = 100 * 2**20


@dataclass(frozen=True)
class Request:
    """One HTTP request; `target` is the path as it was sent, query string included."""

    method: str
    target: bytes
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


@dataclass(frozen=True)
class Response:
    """One HTTP answer."""

    status: int
    body: bytes
    kind: bytes = JSON


def unpacked(request: Request) -> bytes:
    """The body, inflated if it is gzip; one that does not inflate counts as empty, as with the real server."""
    if b"gzip" not in request.headers.get(b"content-encoding", b""):
        return request.body
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(request.body, MOST_UNPACKED)
    except zlib.error:
        return b""
    return data if inflater.eof and not inflater.unused_data else b""


def page(status: int, title: str) -> Response:
    """The HTML that the real server answers with outside its API."""
    text = f"<HTML><HEAD>\n<TITLE>{status} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n</BODY></HTML>\n"
    return Response(status, text.encode(), HTML)
