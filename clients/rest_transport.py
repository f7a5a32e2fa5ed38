"""Sends what a call asks over HTTP, blocking or on an event loop."""

from __future__ import annotations

import gzip as gzip_format
import socket
import ssl
import time
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import httpcore2

from tfserving.clients.address import Address, Tls
from tfserving.clients.errors import Call, Cancelled, DeadlineExceeded, InvalidArgument, ServingError, Unavailable
from tfserving.clients.http_answers import Answer
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.sockets import Deadline, DeadlineBackend
from tfserving.clients.steps import Ask, remaining_seconds
from tfserving.clients.unreachable import broken_hint, unreachable_hint

# What is smaller is hardly made smaller still.
_SMALLEST_PACKED = 1024
# The fastest: a request is packed once and sent once.
_LEVEL = 1
# Connections: as many as there are calls, kept for so many seconds. A server that is gone without a word is noticed.
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
    """What the blocking and the other transport do alike. Redirects are not followed, and no cookies are kept."""

    def __init__(self, address: Address, gzip: bool, largest: int) -> None:
        parts = urlsplit(address.target)
        # As DNS and HTTP have it, which know ASCII alone.
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

    def request(self, ask: Ask) -> dict[str, Any]:
        """The arguments of httpcore's `stream`."""
        if self.closed:
            raise Cancelled("the client is closed", ask.call)
        scheme, host, port = self._origin
        # A call's metadata come instead of these, whatever the case of their names: of `host`, say, there is one.
        along = {name.lower(): value for name, value in (ask.metadata or {}).items()}
        headers, body = {**self._headers, **along}, ask.body
        if self._gzip and body is not None and len(body) >= _SMALLEST_PACKED:
            headers["content-encoding"] = "gzip"
            body = gzip_format.compress(body, _LEVEL, mtime=0)
        return {
            "method": "GET" if body is None else "POST",
            "url": httpcore2.URL(scheme=scheme, host=host, port=port, target=self._prefix + ask.path),
            "content": body,
            "headers": headers,
            "extensions": self._extensions,
        }

    def answer(self, response: Any, call: Call) -> Answer:
        """What takes the body of `response`."""
        return Answer(response.status, response.headers, self._largest, call)

    def failure(self, error: Exception, call: Call) -> ServingError:
        """The ServingError for what HTTP raised."""
        text = str(error)
        if isinstance(error, (httpcore2.TimeoutException, TimeoutError)):
            return DeadlineExceeded("no complete answer came within the timeout", call)
        if isinstance(error, httpcore2.ConnectError):
            return Unavailable(f"failed to connect: {text}", call, unreachable_hint(call, text, tls=self.tls))
        if isinstance(error, (httpcore2.RemoteProtocolError, httpcore2.NetworkError)):
            return Unavailable(f"the connection broke: {text}", call, broken_hint(call, text, tls=self.tls))
        if self.closed:
            return Cancelled(f"the client is closed ({text})", call)
        return InvalidArgument(f"it can't be sent: {text}", call)


class RestTransport:
    """Blocking."""

    def __init__(self, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> None:
        self._exchange = _Exchange(address, gzip, largest)
        self._deadline = Deadline()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls_context(address.tls), network_backend=DeadlineBackend(self._deadline), **_POOL
        )

    def ask(self, ask: Ask) -> bytes:
        """The body of the answer to `ask`. Raises a ServingError."""
        request = self._exchange.request(ask)
        self._deadline.until = ask.deadline
        remaining_seconds(ask.deadline, ask.call)
        try:
            with self._pool.stream(**request) as response:
                answer = self._exchange.answer(response, ask.call)
                for piece in response.iter_stream():
                    if time.monotonic() > ask.deadline:
                        raise TimeoutError
                    if not answer.add(piece):
                        break
        except _FAILURES as error:
            raise self._exchange.failure(error, ask.call) from None
        return answer.body()

    def close(self) -> None:
        """Closes the connections."""
        self._exchange.closed = True
        self._pool.close()


class AsyncRestTransport:
    """On the event loop that the first question is asked on."""

    def __init__(self, address: Address, *, gzip: bool, largest: int = MAX_RESPONSE_BYTES) -> None:
        self._exchange = _Exchange(address, gzip, largest)
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=tls_context(address.tls), **_POOL)

    async def ask(self, ask: Ask) -> bytes:
        """The body of the answer to `ask`. Raises a ServingError."""
        request = self._exchange.request(ask)
        try:
            with anyio.fail_after(remaining_seconds(ask.deadline, ask.call)):
                async with self._pool.stream(**request) as response:
                    answer = self._exchange.answer(response, ask.call)
                    async for piece in response.aiter_stream():
                        if not answer.add(piece):
                            break
        except _FAILURES as error:
            raise self._exchange.failure(error, ask.call) from None
        return answer.body()

    async def close(self) -> None:
        """Closes the connections."""
        self._exchange.closed = True
        await self._pool.aclose()


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """How the server is verified; nothing to verify, and no time spent on it, without TLS."""
    return None if tls is None else tls.context()
