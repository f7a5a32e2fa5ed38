"""The ASGI application: reads requests within limits, has the face answer them in a pool of threads, and logs them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from tfserving.serving.embedded.core.pool import EagerPool, Pool
from tfserving.serving.embedded.observability.access_log import AccessLog
from tfserving.serving.embedded.rest import answers
from tfserving.serving.embedded.rest.face import RestFace
from tfserving.serving.embedded.rest.http import HTML, Request, Response
from tfserving.serving.embedded.rest.urls import AUTHORITY

CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Application:
    """What the HTTP server runs. What may take time runs in a pool of `threads` threads, off the event loop."""

    def __init__(
        self,
        face: RestFace,
        threads: int,
        *,
        eager: bool = False,
        cors: bool = False,
        most_in_flight: int = 0,
        largest_body: int = 0,
        seconds: float | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        """Requests that are batched wait for each other, which needs an `eager` pool.

        With `cors` scripts of any web page may read the answers. Beyond `most_in_flight` requests, and `largest_body`
        bytes, requests are refused; 0 is no limit. An answer that takes more than `seconds` is not waited for.
        """
        self._face = face
        self._pool = (EagerPool if eager else Pool)(threads, "rest")
        self._cors = CORS if cors else ()
        self._most_in_flight = most_in_flight
        self._largest_body = largest_body
        self._seconds = seconds
        self._access_log = access_log
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application, as https://asgi.readthedocs.io/en/latest/specs/www.html describes it."""
        # Only the event loop's thread counts.
        self._in_flight += 1
        try:
            await self._respond(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = self._refusal(scope) or await self._read(scope, receive)
        if read is None:
            return
        refused = isinstance(read, Response)
        if isinstance(read, Response):
            response = read
            self._log_refusal(scope, response)
        else:
            response = await self._answer_in_time(read)
        headers = [(b"content-type", response.kind), (b"content-length", b"%d" % len(response.body))]
        if response.kind is not HTML:
            headers += self._cors
        if refused:
            # What is left of the body is not read.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    async def _answer_in_time(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        # loop.run_in_executor and asyncio.wait_for do the same at a higher price.
        answering: asyncio.Future[Response] = loop.create_future()

        def answer() -> None:
            if answering.cancelled():
                return
            response = self._logged(request)
            # Nobody waits for it any more when the loop is closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, response)

        def finish(response: Response) -> None:
            if not answering.cancelled():
                answering.set_result(response)

        self._pool.post(answer)
        if self._seconds is None:
            return await answering
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            answering.cancel()

        timer = loop.call_later(self._seconds, give_up)
        try:
            return await answering
        except asyncio.CancelledError:
            # The time wouldn't tell: a timer may come a millisecond before its time.
            if not late:
                raise
            # TensorFlow's words. What runs can't be stopped, and ends by itself.
            return Response(504, answers.error("Timed out waiting for notification"))
        finally:
            timer.cancel()

    async def _read(self, scope: Scope, receive: Receive) -> Request | Response | None:
        """The request, once all of it is here; None when its client is gone, the answer when it is too large."""
        body: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return None
            body.append(event.get("body", b""))
            size += len(body[-1])
            if self._largest_body and size > self._largest_body:
                return self._too_large()
            if not event.get("more_body"):
                break
        # What a proxy would be sent, http://host/path, is answered too.
        target = AUTHORITY.sub(b"", scope["target"], 1)
        return Request(scope["method"], target, dict(scope["headers"]), b"".join(body), _client(scope))

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not even read."""
        if self._most_in_flight and self._in_flight > self._most_in_flight:
            text = f"{self._most_in_flight} requests are in flight already, no more are taken; try again later"
            return Response(429, answers.error(text))
        if self._largest_body:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length[:20]) > self._largest_body:
                return self._too_large()
        return None

    def _log_refusal(self, scope: Scope, response: Response) -> None:
        if self._access_log is not None:
            self._access_log.write(
                self._access_log.begin(),
                "rest",
                method=scope["method"],
                path=scope["target"],
                client=_client(scope),
                status=response.status,
                request_bytes=None,
                response_bytes=len(response.body),
            )

    def _too_large(self) -> Response:
        return Response(413, answers.error(f"The body is larger than {self._largest_body} bytes"))

    def _logged(self, request: Request) -> Response:
        """The face's answer, with a line in the access log."""
        if self._access_log is None:
            return self._face.answer(request)
        began = self._access_log.begin()
        response = self._face.answer(request)
        self._access_log.write(
            began,
            "rest",
            method=request.method,
            path=request.target,
            client=request.client,
            status=response.status,
            request_bytes=len(request.body),
            response_bytes=len(response.body),
        )
        return response


def _client(scope: Scope) -> str:
    return "{}:{}".format(*scope["client"]) if scope["client"] else ""
