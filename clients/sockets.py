"""Connections of the blocking REST client, which end at a call's deadline.

HTTP timeouts count from the last byte: a server that sends one byte a second would never exceed them. Here every read
and every write is limited to the time left for the call. (On an event loop a timeout around the call is enough.)
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2


class Deadline(threading.local):
    """The deadline of this thread's call, a time of `time.monotonic`."""

    until = 0.0

    def left(self, passed: type[Exception]) -> float:
        """Return the seconds left. Raises `passed` when there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise passed
        return left


class DeadlineBackend(httpcore2.NetworkBackend):
    """Connects within the deadline, trying one address after another."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline is the timeout
        local_address: str | None = None,  # noqa: ARG002 - the system chooses it
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Return a connection to `host`. Raises ConnectError or ConnectTimeout."""
        with _mapped(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            refused: OSError = OSError(f"{host} has no address")
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                try:
                    connection = socket.create_connection(
                        (str(address[0]), port), self._deadline.left(httpcore2.ConnectTimeout)
                    )
                except OSError as error:
                    refused = error
                    continue
                for option in socket_options or ():
                    connection.setsockopt(*option)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Stream(connection, self._deadline)
            raise refused


class _Stream(httpcore2.NetworkStream):
    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._socket = connection
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        with _mapped(httpcore2.ReadTimeout, httpcore2.ReadError):
            self._socket.settimeout(self._deadline.left(httpcore2.ReadTimeout))
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        with _mapped(httpcore2.WriteTimeout, httpcore2.WriteError):
            left = memoryview(buffer)
            while left:
                self._socket.settimeout(self._deadline.left(httpcore2.WriteTimeout))
                left = left[self._socket.send(left) :]

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        try:
            with _mapped(httpcore2.ConnectTimeout, httpcore2.ConnectError):
                self._socket.settimeout(self._deadline.left(httpcore2.ConnectTimeout))
                return _Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname), self._deadline)
        except Exception:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return _is_readable(self._socket) if info == "is_readable" else None


@contextmanager
def _mapped(timeout: type[Exception], other: type[Exception]) -> Iterator[None]:
    """Raise `timeout` and `other` in place of a socket's errors; for an invalid host name Python raises ValueError."""
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error)) from error
    except (OSError, ValueError) as error:
        raise other(str(error)) from error


def _is_readable(connection: socket.socket) -> bool:
    """Return whether the peer has closed an idle connection, or sent unexpected data."""
    if connection.fileno() < 0:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))
