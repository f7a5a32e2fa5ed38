"""The application behind the connections: runs each request where slower ones don't block it.

A small prediction of a short signature runs in the event loop, which handles other events after each slice of 5 ms.
Other predictions run in a pool of threads. Statuses and metrics have their own threads.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from time import monotonic

from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.core.pool import EagerPool, Pool
from tfserving.serving.embedded.observability.access_log import AccessLog
from tfserving.serving.embedded.rest import responses
from tfserving.serving.embedded.rest.exchange import TIMED_OUT, Exchange
from tfserving.serving.embedded.rest.face import LongError, Place, RestFace
from tfserving.serving.embedded.rest.http import HTML, Request, Response
from tfserving.serving.embedded.rest.proxies import Networks, sender

CORS = (
    b"access-control-allow-origin: *\r\n"
    b"access-control-allow-methods: POST, GET\r\n"
    b"access-control-allow-headers: Content-Type\r\n"
)
# How long the event loop runs predictions before it handles other events.
SLICE_SECONDS = 0.005
# Only for the access log: the client left before the request ran. The number is nginx's.
_LEFT = Response(499, b"")


class Application:
    """Runs requests with a face: predictions in the event loop or a pool, others in their own threads. Logs them."""

    def __init__(
        self,
        face: RestFace,
        threads: int,
        *,
        eager: bool = False,
        cors: bool = False,
        most_in_flight: int = 0,
        access_log: AccessLog | None = None,
        proxies: Networks = (),
    ) -> None:
        """Batched requests wait for each other, which requires an `eager` pool.

        With `cors` scripts of any web page can read the responses. Predictions beyond `most_in_flight` that wait or run
        are refused; 0 is no limit. The access log trusts the X-Forwarded-For of `proxies`.
        """
        self._face = face
        pool = EagerPool if eager else Pool
        # Predictions can occupy threads for long, and the metrics page may wait for other processes.
        self._pools = {
            Place.PREDICTIONS: pool(threads, "rest"),
            Place.BESIDE: EagerPool(2, "rest-status"),
            Place.METRICS: EagerPool(1, "rest-metrics"),
        }
        self._cors = CORS if cors else b""
        self._most_in_flight = most_in_flight
        self._access_log = access_log
        self._proxies = proxies
        self._in_flight = 0
        # Whether predictions can run in the event loop, and those that wait for the next slice.
        self._here = not eager
        self._waiting: deque[Exchange] = deque()

    def take(self, exchange: Exchange) -> None:
        """Runs a request. Called in the event loop; fast requests are complete when it returns."""
        place = self._face.place(exchange.request)
        if place is Place.HERE:
            exchange.done(exchange, self._respond(exchange))
            return
        if place is Place.PREDICTIONS:
            if self._most_in_flight and self._in_flight >= self._most_in_flight:
                text = f"{self._most_in_flight} requests are already in flight; try again later"
                exchange.done(exchange, self._logged(exchange.request, Response(429, responses.error(text))))
                return
            self._in_flight += 1
            if self._here and self._face.may_be_short(exchange.request):
                self._take_short(exchange)
                return
        self._post(exchange, place)

    def _take_short(self, exchange: Exchange) -> None:
        """Runs a prediction that may be short: in the event loop, now or in turn, or else in the pool."""
        loop = asyncio.get_running_loop()
        if self._waiting or monotonic() - loop.time() > SLICE_SECONDS:
            if not self._waiting:
                loop.call_soon(self._continue)
            self._waiting.append(exchange)
        else:
            self._run_here(exchange)

    def _continue(self) -> None:
        """Runs waiting predictions for a slice."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            self._run_here(self._waiting.popleft())
            if self._waiting and monotonic() - loop.time() > SLICE_SECONDS:
                loop.call_soon(self._continue)
                break

    def _run_here(self, exchange: Exchange) -> None:
        try:
            response = self._respond(exchange, only_short=True)
        except LongError:
            self._post(exchange, Place.PREDICTIONS)
            return
        self._in_flight -= 1
        exchange.done(exchange, response)

    def _post(self, exchange: Exchange, place: Place) -> None:
        """Runs a request in a thread."""
        loop = asyncio.get_running_loop()

        # loop.run_in_executor does the same at a higher price.
        def run() -> None:
            response = self._respond(exchange)
            # When the loop is closed, no client waits any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, response)

        def finish(response: Response) -> None:
            self._in_flight -= place is Place.PREDICTIONS
            exchange.done(exchange, response)

        self._pools[place].post(run)

    def headers(self, kind: bytes) -> bytes:
        """Returns additional header lines of a response with this content type."""
        return self._cors if kind != HTML else b""

    def log_refusal(self, method: str, target: bytes, client: str, response: Response) -> None:
        """Logs the response to an incomplete request."""
        if self._access_log is not None:
            self._write(self._access_log.begin(), Request(method, target, client=client), response, None)

    def _respond(self, exchange: Exchange, *, only_short: bool = False) -> Response:
        """Runs a request that is still wanted, logs it, and returns the response.

        With `only_short` it raises LongError for a request that isn't known to be short.
        """
        request = exchange.request
        began = self._access_log.begin() if self._access_log is not None else 0.0
        if monotonic() > exchange.until:
            response = TIMED_OUT
        elif not exchange.wanted:
            response = _LEFT
        else:
            deadline.until = exchange.until if exchange.until < math.inf else None
            try:
                response = self._face.respond(request, only_short=only_short)
            finally:
                deadline.until = None
            if monotonic() > exchange.until:
                response = TIMED_OUT
        if self._access_log is not None:
            self._write(began, request, response, len(request.body))
        return response

    def _logged(self, request: Request, response: Response) -> Response:
        if self._access_log is not None:
            self._write(self._access_log.begin(), request, response, len(request.body))
        return response

    def _write(self, began: float, request: Request, response: Response, request_bytes: int | None) -> None:
        assert self._access_log is not None
        client = request.client
        if self._proxies and (forwarded := request.headers.get(b"x-forwarded-for")):
            client = sender(client, forwarded, self._proxies)
        self._access_log.write(
            began,
            "rest",
            method=request.method,
            path=request.target,
            client=client,
            status=response.status,
            request_bytes=request_bytes,
            response_bytes=len(response.body),
        )
