"""Sends prepared bodies at the lowest cost, so that the server is measured and not the client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httptools

from tfserving.clients.address import Address
from tfserving.clients.busy import REFUSAL
from tfserving.clients.grpc_calls import PREDICT
from tfserving.clients.grpc_transport import new_channel
from tfserving.clients.rest_transport import tls_context

OK = ""
TIMEOUT = "DEADLINE_EXCEEDED"
TOO_LARGE = "RESOURCE_EXHAUSTED: a response is too large"


class GrpcSender:
    """Sends predict requests over gRPC, on one connection."""

    def __init__(self, address: Address, timeout: float, largest: int) -> None:
        self._channel = new_channel(grpc.aio, address, gzip=False, largest=largest)
        self._predict = self._channel.unary_unary(PREDICT)
        self._timeout = timeout

    async def send(self, body: bytes) -> str:
        """Send a PredictRequest, and return its error; OK without one."""
        try:
            await self._predict(body, timeout=self._timeout)
        except grpc.RpcError as error:
            code = str(error.code().name)
            return REFUSAL if f"{code}: {error.details()}" == REFUSAL else code
        return OK

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


class RestSender:
    """Sends predict requests over REST; each has a connection of its own until its response is complete."""

    def __init__(self, address: Address, path: str, timeout: float, largest: int) -> None:
        parts = urlsplit(address.target)
        self._host, self._port = parts.hostname or "", parts.port or 0
        context = tls_context(address.tls)
        self._tls: dict[str, Any] = {}
        if isinstance(context, ssl.SSLContext):
            name = address.tls.server_name if address.tls else None
            self._tls = {"ssl": context, "server_hostname": name or parts.hostname}
        self._head = (
            f"POST {parts.path}{path}:predict HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._timeout, self._largest = timeout, largest
        self._idle: list[_Connection] = []

    async def send(self, body: bytes) -> str:
        """Send the body of a predict request, and return its error; OK without one."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        timer = loop.call_later(self._timeout, _time_out, done)
        connection = None
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), done)
            status = await done
        except (asyncio.TimeoutError, OSError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, asyncio.TimeoutError):
                return TIMEOUT
            return TOO_LARGE if connection is not None and connection.too_large else "UNAVAILABLE"
        finally:
            timer.cancel()
        if connection.open:
            self._idle.append(connection)
        return OK if status == 200 else f"HTTP {status}"  # noqa: PLR2004 - HTTP's success

    async def _connect(self) -> _Connection:
        connect = asyncio.get_running_loop().create_connection(
            lambda: _Connection(self._largest), self._host, self._port, **self._tls
        )
        _, connection = await asyncio.wait_for(connect, self._timeout)
        return connection

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection. The parser of httptools calls its `on_…` methods. Responses are discarded."""

    def __init__(self, largest: int) -> None:
        self.open = False
        self.too_large = False
        self._largest = largest
        self._received = 0
        self._done: asyncio.Future[int] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open = transport, True  # type: ignore[assignment]

    def send(self, request: bytes, done: asyncio.Future[int]) -> None:
        """Send `request`; `done` gets the status of the response, or an OSError."""
        if not self.open or self._transport is None:
            raise ConnectionError
        self._done = done
        self._received = 0
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._largest:
            self.too_large = True
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_complete(self) -> None:
        self.open = self._parser.should_keep_alive()
        self._finish(lambda done: done.set_result(self._parser.get_status_code()))
        self._parser = httptools.HttpResponseParser(self)
        if not self.open:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.open = False
        self._finish(lambda done: done.set_exception(ConnectionError()))

    def close(self) -> None:
        """Close it; a request in flight fails."""
        self.open = False
        if self._transport is not None:
            self._transport.close()

    def _finish(self, do: Callable[[asyncio.Future[int]], None]) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            do(done)


def _time_out(done: asyncio.Future[int]) -> None:
    if not done.done():
        done.set_exception(asyncio.TimeoutError())
