"""Sends what a call asks over HTTP, blocking or on an event loop."""

from __future__ import annotations

import gzip as gzip_format
import socket
import ssl
import time
from typing import Any

import httpx2

from tfserving.clients.address import Address, Tls
from tfserving.clients.errors import (
    Call,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ServingError,
    Unavailable,
    from_http,
    unreachable_hint,
)
from tfserving.clients.steps import Ask, remaining_seconds

# What is smaller is hardly made smaller still.
_SMALLEST_PACKED = 1024
# The fastest: a request is packed once and sent once.
_LEVEL = 1
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0)
# A server that is gone without a word is noticed.
_SOCKET_OPTIONS = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


class _Exchange:
    """What the blocking and the other transport do alike."""

    def __init__(self, address: Address, gzip: bool) -> None:
        self._target = address.target
        self._gzip = gzip
        self._extensions = {"sni_hostname": address.tls.server_name} if address.tls and address.tls.server_name else {}
        self._headers = {"content-type": "application/json", "accept-encoding": "gzip" if gzip else "identity"}

    def request(self, ask: Ask) -> dict[str, Any]:
        """The arguments of httpx's `stream`."""
        headers, body = {**self._headers, **(ask.metadata or {})}, ask.body
        if self._gzip and body is not None and len(body) >= _SMALLEST_PACKED:
            headers["content-encoding"] = "gzip"
            body = gzip_format.compress(body, _LEVEL, mtime=0)
        return {
            "method": "GET" if body is None else "POST",
            "url": self._target + ask.path,
            "content": body,
            "headers": headers,
            "timeout": remaining_seconds(ask.deadline, ask.call),
            "extensions": self._extensions,
        }


class RestTransport:
    """Blocking."""

    def __init__(self, address: Address, *, gzip: bool) -> None:
        self._exchange = _Exchange(address, gzip)
        transport = httpx2.HTTPTransport(
            verify=tls_context(address.tls), trust_env=False, limits=_LIMITS, socket_options=_SOCKET_OPTIONS
        )
        self._http = httpx2.Client(transport=transport, trust_env=False)

    def ask(self, ask: Ask) -> bytes:
        """The body of the answer to `ask`. Raises a ServingError."""
        request = self._exchange.request(ask)
        try:
            # Read in pieces: HTTP's timeouts count from the last one, ours from the start.
            with self._http.stream(**request) as response:
                pieces = []
                for piece in response.iter_bytes():
                    _check_deadline(ask)
                    pieces.append(piece)
        except (httpx2.HTTPError, httpx2.InvalidURL, RuntimeError) as error:
            raise _failure(error, ask.call) from None
        return _body(response.status_code, pieces, ask.call)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


class AsyncRestTransport:
    """On the event loop that the first question is asked on."""

    def __init__(self, address: Address, *, gzip: bool) -> None:
        self._exchange = _Exchange(address, gzip)
        transport = httpx2.AsyncHTTPTransport(
            verify=tls_context(address.tls), trust_env=False, limits=_LIMITS, socket_options=_SOCKET_OPTIONS
        )
        self._http = httpx2.AsyncClient(transport=transport, trust_env=False)

    async def ask(self, ask: Ask) -> bytes:
        """The body of the answer to `ask`. Raises a ServingError."""
        request = self._exchange.request(ask)
        try:
            async with self._http.stream(**request) as response:
                pieces = []
                async for piece in response.aiter_bytes():
                    _check_deadline(ask)
                    pieces.append(piece)
        except (httpx2.HTTPError, httpx2.InvalidURL, RuntimeError) as error:
            raise _failure(error, ask.call) from None
        return _body(response.status_code, pieces, ask.call)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()


def tls_context(tls: Tls | None) -> ssl.SSLContext | bool:
    """How the server is verified; nothing to verify, and no time spent on it, without TLS."""
    if tls is None:
        return False
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def _check_deadline(ask: Ask) -> None:
    if time.monotonic() > ask.deadline:
        raise DeadlineExceeded("the answer was not complete within the timeout", ask.call)


def _body(status: int, pieces: list[bytes], call: Call) -> bytes:
    body = b"".join(pieces)
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's successes
        raise from_http(status, body, call)
    return body


def _failure(error: Exception, call: Call) -> ServingError:
    if isinstance(error, httpx2.TimeoutException):
        return DeadlineExceeded("no answer came within the timeout", call)
    if isinstance(error, httpx2.ConnectError):
        return Unavailable(f"failed to connect: {error}", call, unreachable_hint(call, str(error)))
    if isinstance(error, httpx2.RemoteProtocolError):
        return Unavailable(
            f"the connection broke: {error}", call, f"is {call.server} the server's REST port, not its gRPC port?"
        )
    if isinstance(error, httpx2.TransportError):
        return Unavailable(f"the connection broke: {error}", call)
    if isinstance(error, (httpx2.HTTPError, httpx2.InvalidURL)):
        return InvalidArgument(f"it can't be sent: {error}", call)
    return Cancelled(f"the client is closed ({error})", call)
