"""HTTP requests and responses, shared by the face, the application and the connections."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

JSON = b"application/json"
HTML = b"text/html"
TEXT = b"text/plain"
# TensorFlow Serving's limit of inflated bodies. It applies when this server's own limit is turned off.
MOST_UNPACKED = 100 * 2**20
# The bytes that are inflated at a time, and the most bytes of output.
_READ, _STEP = 2**16, 2**20


class Request(NamedTuple):
    """An HTTP request; `target` is the path as sent, with the query string."""

    method: str
    target: bytes
    headers: Mapping[bytes, bytes] = MappingProxyType({})
    body: bytes = b""
    client: str = ""


class Response(NamedTuple):
    """An HTTP response. `headers` are further header lines, each with its end."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: bytes = b""


class RefusedError(Exception):
    """A request that is too large or invalid HTTP: the status, and a text or TensorFlow Serving's HTML page."""

    def __init__(self, status: int, text: str, page: Response | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.page = page


def too_large(largest: float) -> RefusedError:
    """Returns the error of a body with more than `largest` bytes, sent or inflated."""
    return RefusedError(413, f"The body is larger than {largest:.0f} bytes")


def unpacked(request: Request, largest: int = 0) -> bytes:
    """Returns the body, inflated if it is gzip. Invalid gzip counts as an empty body, as in TensorFlow Serving.

    It is inflated step by step. Raises RefusedError as soon as it has more than `largest` bytes; 0 is no limit.
    """
    if b"gzip" not in request.headers.get(b"content-encoding", b""):
        return request.body
    inflater = zlib.decompressobj(wbits=31)
    # Its getvalue() makes no copy.
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
    """Returns the HTML page that TensorFlow Serving sends outside its API."""
    text = f"<HTML><HEAD>\n<TITLE>{status} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n</BODY></HTML>\n"
    return Response(status, text.encode(), HTML)
