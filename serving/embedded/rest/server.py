"""The HTTP server of the REST face: an event loop in its own thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import uvloop

from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.rest.connection import Connection
from tfserving.serving.embedded.rest.connections import Application, Connections
from tfserving.serving.embedded.rest.limits import Limits
from tfserving.serving.embedded.tls import Tls

BACKLOG = 1024
_DRAIN_TICK_SECONDS = 0.02


class RestServer:
    """Serves an application on a bound socket."""

    def __init__(
        self, application: Application, claimed: socket.socket, limits: Limits, tls: Tls | None = None
    ) -> None:
        """With `tls` it serves HTTPS."""
        self._socket = claimed
        self._context = tls.context() if tls else None
        self._limits = limits
        self._connections = Connections(application, limits)
        self._loop = uvloop.new_event_loop()
        self._opened = threading.Event()
        self._closed = asyncio.Event()
        self._drain_until = 0.0
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        """Starts to listen. Raises StartError when another process listens already."""
        try:
            self._socket.listen(BACKLOG)
        except OSError as error:
            address, port = self._socket.getsockname()[:2]
            raise StartError(
                f"--rest_api_port={port}: can't listen on port {port} of {address}: {error.strerror}"
            ) from None
        self._thread.start()

    def hold(self) -> None:
        """Does nothing: each HTTP response can end its connection, so none has to be held back."""

    def refuse(self, grace: float) -> None:  # noqa: ARG002 - no request ends by this
        """Accepts no more connections. Requests on existing ones continue."""
        while not self._opened.wait(_DRAIN_TICK_SECONDS):
            if not self._thread.is_alive():
                return

        async def close() -> None:
            self._server.close()
            self._socket.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()

    def finish(self, grace: float) -> int:
        """Ends each connection after its present request; waits up to `grace` seconds.

        Returns the number of requests that are not complete.
        """
        self._drain_until = time.monotonic() + grace
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()
        return self._connections.busy()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._server = await self._loop.create_server(
            lambda: Connection(self._connections),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=min(self._limits.head_seconds, 3600) if self._context else None,
        )
        self._opened.set()
        tick, closed = self._limits.tick(), asyncio.ensure_future(self._closed.wait())
        while not closed.done():
            self._connections.look()
            await asyncio.wait([closed], timeout=tick)
        self._connections.drain()
        while self._connections.open() and time.monotonic() < self._drain_until:
            self._connections.look()
            await asyncio.sleep(_DRAIN_TICK_SECONDS)
