"""The application behind the connections: each request is answered where nothing that takes longer is in its way.

A small prediction of a short signature is answered in the event loop, which looks at what else there is to do after
each slice of 5 ms. Other predictions are answered in a pool of threads, statuses and metrics in threads of their own.
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
# How long the event loop answers predictions before it looks at what else there is to do.
SLICE_SECONDS = 0.005
# What an access log says of a request whose client has left before its turn came; nginx's number.
_LEFT = Response(499, b"")


class Application:
    """Has a face answer requests: predictions in the event loop or a pool of threads, the rest beside it; logs them."""

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
        """Requests that are batched wait for each other, which needs an `eager` pool.

        With `cors` scripts of any web page may read the answers. Beyond `most_in_flight` predictions that are there,
        or run, others are refused; 0 is no limit. The access log believes `proxies` who has sent a request.
        """
        self._face = face
        pool = EagerPool if eager else Pool
        # Predictions keep threads for long. The metrics page may wait for other processes.
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
        # What may be short is answered here, and waits here when that has gone on for a slice.
        self._here = not eager
        self._waiting: deque[Exchange] = deque()

    def take(self, exchange: Exchange) -> None:
        """Has a request answered; called in the event loop, where what takes no time is answered at once."""
        place = self._face.place(exchange.request)
        if place is Place.HERE:
            exchange.done(exchange, self._respond(exchange))
            return
        if place is Place.PREDICTIONS:
            if self._most_in_flight and self._in_flight >= self._most_in_flight:
                text = f"{self._most_in_flight} requests are in flight already, no more are taken; try again later"
                exchange.done(exchange, self._logged(exchange.request, Response(429, responses.error(text))))
                return
            self._in_flight += 1
            if self._here and self._face.may_be_short(exchange.request):
                self._take_short(exchange)
                return
        self._post(exchange, place)

    def _take_short(self, exchange: Exchange) -> None:
        """Has a prediction answered that may be short: here, at once or in its turn, or else in the pool."""
        loop = asyncio.get_running_loop()
        if self._waiting or monotonic() - loop.time() > SLICE_SECONDS:
            if not self._waiting:
                loop.call_soon(self._continue)
            self._waiting.append(exchange)
        else:
            self._run_here(exchange)

    def _continue(self) -> None:
        """Answers what waits, for a slice."""
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
        """Has a request answered in a thread."""
        loop = asyncio.get_running_loop()

        # loop.run_in_executor does the same at a higher price.
        def run() -> None:
            response = self._respond(exchange)
            # Nobody waits for it any more when the loop is closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, response)

        def finish(response: Response) -> None:
            self._in_flight -= place is Place.PREDICTIONS
            exchange.done(exchange, response)

        self._pools[place].post(run)

    def headers(self, kind: bytes) -> bytes:
        """Lines for the head of an answer with a body of this content type, beyond those that every answer has."""
        return self._cors if kind != HTML else b""

    def log_refusal(self, method: str, target: bytes, client: str, response: Response) -> None:
        """Notes the answer to a request that is not all there."""
        if self._access_log is not None:
            self._write(self._access_log.begin(), Request(method, target, client=client), response, None)

    def _respond(self, exchange: Exchange, *, only_short: bool = False) -> Response:
        """The answer to a request that somebody waits for, with a line in the access log.

        With `only_short` it raises LongError for what isn't known to be short.
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
