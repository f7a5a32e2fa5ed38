"""One connection: reads its client's requests and responds in order, with a time limit for each step.

             first byte         head complete          complete             response
    ┌► IDLE ────────────► HEAD ───────────────► BODY ───────────► RUNNING ───────────────┐
    │  idle_seconds       head_seconds          read_seconds,     response_seconds: 504  │
    │                                           body_seconds                             │
    └──────────────────────────────────────────────────────── SENDING ◄──────────────────┘
                                                              send_seconds, body_seconds

When a time is over the connection is closed, as in nginx. The attributes are the state: `exchange` is set while
RUNNING, `unsent` while SENDING.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from tfserving.serving.embedded.rest import responses
from tfserving.serving.embedded.rest.exchange import TIMED_OUT, Exchange
from tfserving.serving.embedded.rest.http import RefusedError, Request, Response
from tfserving.serving.embedded.rest.limits import SMALL
from tfserving.serving.embedded.rest.reader import Reader

if TYPE_CHECKING:
    from tfserving.serving.embedded.rest.connections import Connections

# How long a drain leaves an idle connection open, for a request that may be on its way.
LAST_CALL_SECONDS = 0.2
# How long a refused client is read: closing at once would discard the refusal if the client is still sending.
LINGER_SECONDS = 2.0
# Only for the access log: the client may be gone, and nginx sends no response either.
_SLOW = Response(408, b"")
_ALL_BUSY = Response(503, responses.error("All connections that may be open have a request; try again later"))
# The option on, with 0 seconds.
_NO_LINGER = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Reads one client's requests and sends the responses; runs in the event loop."""

    def __init__(self, all_: Connections) -> None:
        self._all = all_
        self._limits = all_.limits
        self._transport: Any = None
        self._reader: Reader
        self._peer = ""
        self.exchange: Exchange | None = None
        # When the time of the state is over, and the deadline of a body or a response.
        self.until = math.inf
        self._complete_until = math.inf
        # Received bytes that are not parsed yet. Parsing waits for the responses to earlier requests.
        self._unread = memoryview(b"")
        self._refusal: RefusedError | None = None
        # The bytes of a response that the client has not read, when they exceed the buffer.
        self.unsent = 0
        self._kept = 0
        self._fresh = True
        self._advancing = False
        self._paused = False
        self.closing = False

    def connection_made(self, transport: Any) -> None:
        """Handles a new connection."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if peer:
            self._peer = "{}:{}".format(*peer[:2])
        self._reader = Reader(self._limits, self._peer, self._allow_body, self._room)
        self.until = monotonic() + self._limits.head_seconds
        if not self._all.admit(self):
            self._log_refusal(_ALL_BUSY)
            self._send(_ALL_BUSY, "", last=True)
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason doesn't matter
        """Handles the end of the connection."""
        self.closing = True
        self._all.lose(self)
        self._all.held.leave(self.drop)
        if self.exchange is not None:
            self.exchange.give_up()
            self._end_exchange()

    def data_received(self, data: bytes) -> None:
        """Handles received bytes."""
        if self.closing:
            return
        self._unread = memoryview(bytes(self._unread) + data if self._unread else data)
        self._advance()

    def pause_writing(self) -> None:
        """Handles a client that reads slower than the response is sent."""
        self.unsent = self._transport.get_write_buffer_size()
        now = monotonic()
        self._complete_until = now + self._limits.body_seconds
        self.until = now + self._limits.send_seconds
        if not self._all.held.wait(self.drop, self.unsent):
            self.drop()

    def resume_writing(self) -> None:
        """Handles a client that has read nearly all of the response."""
        self.unsent = 0
        self._all.held.leave(self.drop)
        if self.closing or self._transport.is_closing():
            return
        self._rest_now()
        self._advance()

    def look(self, now: float) -> None:
        """Ends the connection if the time of its state is over. Call it regularly."""
        if self.unsent:
            self._look_at_sending(now)
        if now < self.until:
            return
        if self.closing or self.unsent:
            self._abort()
        elif self.exchange is not None:
            self.exchange.give_up()
            self._respond(self.exchange, TIMED_OUT)
        else:
            if self._reader.begun and not self._all.draining:
                self._log_refusal(_SLOW)
            self._close()

    def drain(self) -> None:
        """Ends the connection after the response to its present request, or soon."""
        if self.exchange is None and not self.unsent and not self.closing:
            half_sent = self._reader.begun or self._unread
            self.until = min(self.until, self._all.drained if half_sent else monotonic() + LAST_CALL_SECONDS)

    def drop(self) -> None:
        """Drops the bytes that this client occupies, to make room for others."""
        if self.busy:
            self._abort()
        else:
            self._refuse(
                RefusedError(503, "The memory for request bodies is full, and this one took longest; try again later")
            )

    def make_room(self) -> None:
        """Ends a connection without a request, to make room for another."""
        self._abort()

    @property
    def busy(self) -> bool:
        """Whether a request runs, or its response is being sent."""
        return self.exchange is not None or self.unsent > 0

    def _advance(self) -> None:
        """Reads and runs requests until no bytes are left, or a request takes time."""
        if self._advancing:
            return
        self._advancing = True
        while self.exchange is None and not self.unsent and not self.closing:
            if self._reader.requests:
                self._begin(self._reader.requests.popleft())
            elif self._refusal is not None:
                self._refuse(self._refusal)
            elif self._unread:
                self._read()
            else:
                break
        self._advancing = False
        if self._unread and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _read(self) -> None:
        reader = self._reader
        was_begun, was_in_body = reader.begun, reader.in_body
        try:
            size = reader.feed(self._unread)
        except RefusedError as refusal:
            # Earlier requests get their responses first.
            self._refusal = refusal
            return
        self._unread = self._unread[size:]
        if not reader.begun:
            return
        now = monotonic()
        if self._all.draining:
            self.until = self._all.drained
        elif reader.in_body:
            if not was_in_body:
                self._complete_until = now + self._limits.body_seconds
            self.until = min(now + self._limits.read_seconds, self._complete_until)
        elif not (was_begun or self._fresh):
            self.until = now + self._limits.head_seconds

    def _begin(self, request: Request) -> None:
        self._fresh = False
        if len(request.body) > SMALL:
            self._kept = self._all.held.keep(self.drop)
        self.until = monotonic() + self._limits.response_seconds
        self.exchange = Exchange(request, self.until, self._respond)
        self._all.application.take(self.exchange)

    def _respond(self, exchange: Exchange, response: Response) -> None:
        if exchange is not self.exchange:
            # The response is too late.
            return
        self._end_exchange()
        if self._transport.is_closing():
            return
        last = (self._reader.last and not self._reader.requests) or self._all.draining
        self._send(response, exchange.request.method, last=last)
        if last:
            self._close()
            return
        if not self.unsent:
            self._rest_now()
            self._advance()

    def _end_exchange(self) -> None:
        self.exchange = None
        if self._kept:
            self._all.held.free(self._kept)
            self._kept = 0

    def _rest_now(self) -> None:
        """Waits for the next request."""
        self.until = monotonic() + self._limits.idle_seconds
        if self._all.draining:
            self.drain()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _send(self, response: Response, method: str, *, last: bool) -> None:
        body = response.body
        head = self._all.head(response.status, response.kind) % len(body)
        end = response.headers + (b"connection: close\r\n\r\n" if last else b"\r\n")
        if method == "HEAD":
            body = b""
        if len(body) < SMALL:
            self._transport.write(b"".join((head, end, body)))
        else:
            self._transport.write(head + end)
            self._transport.write(body)

    def _refuse(self, refusal: RefusedError) -> None:
        """Sends a refusal, and reads no more requests."""
        self._all.held.leave(self.drop)
        if self._transport.is_closing():
            return
        response = responses.refusal(refusal)
        self._log_refusal(response)
        self._send(response, self._reader.method, last=True)
        self.closing = True
        self._unread = memoryview(b"")
        self.until = monotonic() + LINGER_SECONDS
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _log_refusal(self, response: Response) -> None:
        self._all.application.log_refusal(self._reader.method, self._reader.target, self._peer, response)

    def _close(self) -> None:
        """Closes the connection when all is sent. `look` limits the wait."""
        self.closing = True
        self.until = monotonic() + self._limits.send_seconds
        self._transport.close()

    def _abort(self) -> None:
        self.closing = True
        # Makes the operating system drop the unread bytes, too.
        with suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def _allow_body(self) -> None:
        # Before the response to an earlier request this would look like a part of that response.
        if self.exchange is None and not self._reader.requests:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _room(self, size: int) -> bool:
        return self._all.held.wait(self.drop, size)

    def _look_at_sending(self, now: float) -> None:
        left = self._transport.get_write_buffer_size()
        if left < self.unsent:
            self.unsent = left
            self.until = min(now + self._limits.send_seconds, self._complete_until)
            self._all.held.wait(self.drop, left)
