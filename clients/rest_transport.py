"""Sends requests over HTTP, blocking or on an event loop."""

from __future__ import annotations

import gzip as gzip_format
import re
import socket
import ssl
import time
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import httpcore2

from tfserving.clients.address import Address, Tls
from tfserving.clients.errors import (
    NO_RESPONSE,
    Call,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ServingError,
    Unavailable,
)
from tfserving.clients.http_response import ResponseBody
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.sockets import Deadline, DeadlineBackend
from tfserving.clients.steps import Request, remaining_seconds
from tfserving.clients.unreachable import broken_hint, unreachable_hint

# In front of an error of the operating system.
_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
# Compression saves little on smaller bodies.
_SMALLEST_PACKED = 1024
# The fastest level: a request is compressed once and sent once.
_LEVEL = 1
# One connection for each call in flight, kept for 60 s. Keepalive notices a server that vanished.
_POOL: dict[str, Any] = {
    "max_connections": None,
    "max_keepalive_connections": None,
    "keepalive_expiry": 60.0,
    "socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
}
_FAILURES = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    TimeoutError,
    RuntimeError,
    ValueError,
)


class _Exchange:
    """What both transports share. Redirects are not followed, cookies are not kept."""

    def __init__(self, address: Address, gzip: bool, largest: int) -> None:
        parts = urlsplit(address.target)
        # DNS and HTTP are ASCII.
        host = parts.hostname or ""
        host = host if ":" in host else host.encode("idna").decode()
        self._origin = parts.scheme, host, parts.port
        self._prefix = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        self._gzip, self._largest = gzip, largest
        self.tls = address.tls is not None
        self.closed = False
        self._extensions = {"sni_hostname": address.tls.server_name} if address.tls and address.tls.server_name else {}
        self._headers = {
            "host": f"[{host}]:{parts.port}" if ":" in host else f"{host}:{parts.port}",
            "accept": "*/*",
            "content-type": "application/json",
            "accept-encoding": "gzip" if gzip else "identity",
            "user-agent": "tfserving",
        }

    def arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments of httpcore's `stream`."""
        if self.closed:
            raise Cancelled("the client is closed", request.call)
        scheme, host, port = self._origin
        # A call's metadata replace these, in any case of their names: there must be one `host`, for example.
        sent = {name.lower(): value for name, value in (request.metadata or {}).items()}
        headers, body = {**self._headers, **sent}, request.body
        if self._gzip and body is not None and len(body) >= _SMALLEST_PACKED:
            headers["content-encoding"] = "gzip"
            body = gzip_format.compress(body, _LEVEL, mtime=0)
        return {
            "method": "GET" if body is None else "POST",
            "url": httpcore2.URL(scheme=scheme, host=host, port=port, target=self._prefix + request.path),
            "content": body,
            "headers": headers,
            "extensions": self._extensions,
        }

    def body_of(self, response: Any, request: Request) -> ResponseBody:
        """Return the reader of the body of `response`."""
        if request.received is not None:
            request.received.update(
                (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers
            )
        return ResponseBody(response.status, response.headers, self._largest, request.call)

    def failure(self, error: Exception, call: Call) -> ServingError:
        """Return the ServingError for an error of HTTP."""
        text = str(error)
        if isinstance(error, (httpcore2.TimeoutException, TimeoutError)):
            return DeadlineExceeded(NO_RESPONSE[1], call)
        if isinstance(error, httpcore2.ConnectError):
            text = _NUMBER.sub("", text)
            return Unavailable(f"failed to connect: {text}", call, unreachable_hint(call, text, tls=self.tls))
        if isinstance(error, (httpcore2.RemoteProtocolError, httpcore2.NetworkError)):
            return Unavailable(f"the connection broke: {text}", call, broken_hint(call, text, tls=self.tls))
        if self.closed:
            return Cancelled(f"the client is closed ({text})", call)
        return InvalidArgument(f"the request can't be sent: {text}", call)


class RestTransport:
    """A blocking transport."""

    def __init__(self, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> None:
        self._exchange = _Exchange(address, gzip, largest)
        self._deadline = Deadline()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls_context(address.tls), network_backend=DeadlineBackend(self._deadline), **_POOL
        )

    def send(self, request: Request) -> bytes:
        """Return the body of the response to `request`. Raises a ServingError."""
        arguments = self._exchange.arguments(request)
        self._deadline.until = request.deadline
        remaining_seconds(request.deadline, request.call)
        try:
            with self._pool.stream(**arguments) as response:
                body = self._exchange.body_of(response, request)
                for piece in response.iter_stream():
                    if time.monotonic() > request.deadline:
                        raise TimeoutError
                    if not body.add(piece):
                        break
        except _FAILURES as error:
            raise self._exchange.failure(error, request.call) from None
        return body.whole()

    def close(self) -> None:
        """Close the connections."""
        self._exchange.closed = True
        self._pool.close()


class AsyncRestTransport:
    """A transport on the event loop of its first request."""

    def __init__(self, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> None:
        self._exchange = _Exchange(address, gzip, largest)
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=tls_context(address.tls), **_POOL)

    async def send(self, request: Request) -> bytes:
        """Return the body of the response to `request`. Raises a ServingError."""
        arguments = self._exchange.arguments(request)
        try:
            with anyio.fail_after(remaining_seconds(request.deadline, request.call)):
                async with self._pool.stream(**arguments) as response:
                    body = self._exchange.body_of(response, request)
                    async for piece in response.aiter_stream():
                        if not body.add(piece):
                            break
        except _FAILURES as error:
            raise self._exchange.failure(error, request.call) from None
        return body.whole()

    async def close(self) -> None:
        """Close the connections."""
        self._exchange.closed = True
        await self._pool.aclose()


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """Return the SSL context of `tls`; None, which costs no time, without TLS."""
    return None if tls is None else tls.context()
