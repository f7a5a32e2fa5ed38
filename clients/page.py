"""A page of a server over HTTP, a metrics page say: within a time limit, and no larger than it may be."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from tfserving.clients.address import Tls, read_address
from tfserving.clients.errors import Call
from tfserving.clients.limits import MAX_PAGE_BYTES
from tfserving.clients.rest_transport import RestTransport
from tfserving.clients.steps import Ask


def read_page(url: str, tls: Tls | None = None, *, timeout: float = 5.0, largest: int = MAX_PAGE_BYTES) -> str:
    """The text of the page at `url`. Raises a ServingError, and ValueError for what is no URL of HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is no URL of a page: http[s]://HOST:PORT/PATH is")
    address = read_address(f"{parts.scheme}://{parts.netloc}", tls if parts.scheme == "https" else None)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    transport = RestTransport(address, gzip=True, largest=largest)
    try:
        body = transport.ask(Ask(path, None, Call("rest", url), time.monotonic() + timeout))
    finally:
        transport.close()
    return body.decode("utf-8", "replace")
