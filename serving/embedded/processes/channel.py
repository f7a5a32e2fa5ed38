"""Calls between two processes that trust each other, over a private socket.

Messages are sent in a separate thread. So a process that doesn't read blocks only callers that wait for its result.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from tfserving.serving.embedded.errors import Code, EmbeddedError, RequestError

log = logging.getLogger(__name__)

Methods = Mapping[str, Callable[..., Any]]


class ClosedError(EmbeddedError):
    """The other process is gone."""


class Channel:
    """One end: calls methods of the other end, and runs its calls to `methods`, each in a separate thread."""

    def __init__(self, connected: socket.socket, methods: Methods, ended: Callable[[], None]) -> None:
        """Takes ownership of a connected socket. `ended` is called once, when the other process is gone."""
        self._socket = connected
        self._reading, self._writing = (Connection(os.dup(connected.fileno())) for _ in range(2))
        self._methods = methods
        self._ended = ended
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._closed = False
        self._lock = threading.Lock()
        # None ends the queue.
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="channel-out", daemon=True).start()
        threading.Thread(target=self._read, name="channel-in", daemon=True).start()

    def call(self, method: str, *args: Any, seconds: float | None = None) -> Any:
        """Returns what the other end's `method` returns.

        Raises this server's errors as the method raises them, and RequestError INTERNAL for any other. Raises
        ClosedError when the other process is gone, and RequestError UNAVAILABLE after `seconds` without a result.
        """
        try:
            return self.begin(method, *args).result(seconds)
        except FutureTimeoutError:
            text = f"the other process has not returned from {method!r} within {seconds:g} s"
            raise RequestError(Code.UNAVAILABLE, text) from None

    def begin(self, method: str, *args: Any) -> Future[Any]:
        """As `call`, without waiting for the result."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._closed:
                future.set_exception(ClosedError("the other process is gone"))
                return future
            self._waiting[number] = future
        self._send("call", number, method, args)
        return future

    def close(self) -> None:
        """Closes both ends."""
        with self._lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, *message: Any) -> None:
        self._outgoing.put(pickle.dumps(message))

    def _write(self) -> None:
        while (data := self._outgoing.get()) is not None:
            try:
                self._writing.send_bytes(data)
            except OSError:
                # The other end is gone. The reading thread notices that too, and fails the waiting calls.
                break
        self._writing.close()

    def _read(self) -> None:
        while True:
            try:
                kind, number, *rest = self._reading.recv()
            except (EOFError, OSError):
                break
            if kind == "call":
                try:
                    threading.Thread(target=self._execute, args=(number, *rest), daemon=True).start()
                except RuntimeError as failure:
                    # The system can't start more threads.
                    self._send("result", number, None, RequestError(Code.RESOURCE_EXHAUSTED, str(failure)))
            else:
                with self._lock:
                    future = self._waiting.pop(number)
                result, error = rest
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
            self._socket.close()
        self._reading.close()
        self._outgoing.put(None)
        for future in waiting:
            future.set_exception(ClosedError("the other process is gone"))
        self._ended()

    def _execute(self, number: int, method: str, args: tuple[Any, ...]) -> None:
        result: Any = None
        failed: EmbeddedError | None = None
        try:
            result = self._methods[method](*args)
        except EmbeddedError as error:
            failed = error
        except Exception as error:
            # The other process may not be able to unpickle this exception.
            log.exception("%s failed", method)
            failed = RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        self._send("result", number, result, failed)
