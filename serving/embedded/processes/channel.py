"""Calls between two processes that trust each other, over a socket that nobody else has."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from tfserving.serving.embedded.errors import Code, EmbeddedError, RequestError

log = logging.getLogger(__name__)

Methods = Mapping[str, Callable[..., Any]]


class ClosedError(EmbeddedError):
    """The other process is gone."""


class Channel:
    """One end: calls what the other end has, and answers its calls with `methods`, each in a thread of its own."""

    def __init__(self, connected: socket.socket, methods: Methods, ended: Callable[[], None]) -> None:
        """Takes over a connected socket. `ended` is called, once, when the other process is gone."""
        self._socket = connected
        self._connection = Connection(os.dup(connected.fileno()))
        self._methods = methods
        self._ended = ended
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def call(self, method: str, *args: Any) -> Any:
        """What the other end's `method` returns.

        Raises the errors of this server that it raises, RequestError INTERNAL for any other, and ClosedError.
        """
        return self.begin(method, *args).result()

    def begin(self, method: str, *args: Any) -> Future[Any]:
        """As `call`, without waiting for it."""
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
        """Ends both ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, *message: Any) -> None:
        # When the other end is gone whoever reads notices, too, and tells those who wait.
        with suppress(OSError), self._sending:
            self._connection.send(message)

    def _read(self) -> None:
        while True:
            try:
                kind, number, *rest = self._connection.recv()
            except (EOFError, OSError):
                break
            if kind == "call":
                threading.Thread(target=self._answer, args=(number, *rest), daemon=True).start()
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
        for future in waiting:
            future.set_exception(ClosedError("the other process is gone"))
        self._ended()

    def _answer(self, number: int, method: str, args: tuple[Any, ...]) -> None:
        result: Any = None
        failed: EmbeddedError | None = None
        try:
            result = self._methods[method](*args)
        except EmbeddedError as error:
            failed = error
        except Exception as error:
            # Another process may not know what it is.
            log.exception("%s failed", method)
            failed = RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        self._send("answer", number, result, failed)
