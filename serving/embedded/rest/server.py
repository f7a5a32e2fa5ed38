"""The HTTP server under the REST face: uvicorn in a thread, with its own event loop."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.rest.http import page
from tfserving.serving.embedded.tls import Tls

# Clients that keep connections in a pool should find them open.
KEEP_ALIVE_SECONDS = 60
BACKLOG = 1024


_POLL_SECONDS = 0.005
# How long a drain leaves a connection open on which nothing is asked, for the request that may be on its way.
LAST_CALL_SECONDS = 0.2


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with the real server's answers to what is not HTTP, and a drain that loses no request."""

    _draining = False

    def shutdown(self) -> None:
        if self._draining or not self._is_idle():
            super().shutdown()
        else:
            self.loop.call_later(LAST_CALL_SECONDS, super().shutdown)
        self._draining = True

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # As it was sent, with what uvicorn leaves out: a fragment.
        self.scope["target"] = self.url  # type: ignore[typeddict-unknown-key]
        if self._draining:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the real server has its own words
        unknown = isinstance(sys.exc_info()[1], httptools.HttpParserInvalidMethodError)
        answer = page(501, "Not Implemented") if unknown else page(400, "Bad Request")
        lines = (
            f"HTTP/1.1 {answer.status} Refused",
            f"content-type: {answer.kind.decode()}",
            f"content-length: {len(answer.body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body)
        self.transport.close()


class RestServer:
    """Serves an ASGI application on a socket that is bound."""

    def __init__(self, application: Any, claimed: socket.socket, tls: Tls | None = None) -> None:
        """With `tls` it speaks HTTPS."""
        context = tls.context() if tls else None
        config = uvicorn.Config(
            application,
            http=_Protocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            server_header=False,
            log_config=None,
            # It would log every request that is none.
            log_level="error",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_context_factory=(lambda *_: context) if context else None,
        )
        self._socket = claimed
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([claimed],), name="rest", daemon=True)

    def start(self) -> None:
        """Listens. Raises StartError when somebody else came first."""
        try:
            self._socket.listen(BACKLOG)
        except OSError as error:
            address, port = self._socket.getsockname()[:2]
            raise StartError(
                f"--rest_api_port={port}: can't listen on port {port} of {address}: {error.strerror}"
            ) from None
        self._thread.start()

    def hold(self) -> None:
        """Connections here are told one by one, with an answer: none has to be kept back."""

    def refuse(self, grace: float) -> None:  # noqa: ARG002 - nothing ends by this
        """Takes no more connections. Requests on those that there are go on."""
        while not self._server.started and self._thread.is_alive():
            time.sleep(_POLL_SECONDS)

        async def close() -> None:
            for server in self._server.servers:
                server.close()
            self._socket.close()

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(close(), self._server.servers[0].get_loop()).result()

    def finish(self, grace: float) -> None:
        """Answers what is on its way with the last answer of its connection; returns then, or after `grace` seconds."""
        self._server.should_exit = True
        self._thread.join(grace)
