"""Reads a page of a server over HTTP, for example its metrics, with limits on time and size."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from tfserving.clients.address import Tls, read_address
from tfserving.clients.errors import Call
from tfserving.clients.limits import MAX_PAGE_BYTES
from tfserving.clients.rest_transport import RestTransport
from tfserving.clients.steps import Request


def read_page(url: str, tls: Tls | None = None, *, timeout: float = 5.0, largest: int = MAX_PAGE_BYTES) -> str:
    """Return the text of the page at `url`. Raises a ServingError, and ValueError for a URL that isn't HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is not the URL of a page; expected http[s]://HOST:PORT/PATH")
    address = read_address(f"{parts.scheme}://{parts.netloc}", tls if parts.scheme == "https" else None)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    transport = RestTransport(address, gzip=True, largest=largest)
    try:
        body = transport.send(Request(path, None, Call("rest", url), time.monotonic() + timeout))
    finally:
        transport.close()
    return body.decode("utf-8", "replace")
