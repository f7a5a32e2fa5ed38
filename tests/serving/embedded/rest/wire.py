"""A client of REST that says exactly what a test wants it to say, when, and how slowly."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

from tests.serving.embedded.running import Process

GOOD = b'{"instances": [[1.0, 2.0, 3.0]]}'


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A POST of JSON, of which `body` may be a part only."""
    lines = (f"POST /v1/models/{path} HTTP/1.1", "Host: test", *headers)
    head = "\r\n".join((*lines, f"Content-Length: {len(body) if length is None else length}", "", ""))
    return head.encode() + body


def get(path: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


class Wire:
    """A connection to a server."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._received = b""

    def send(self, data: bytes) -> None:
        """Sends bytes as they are; those that the server no longer takes are lost."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def answer(self, *, body: bool = True) -> tuple[int, bytes]:
        """The status and the body of the next answer; (0, what came) when the connection ends before."""
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                return 0, self._received
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", 0)) if body else 0
        while len(self._received) < length:
            if not self._receive():
                return 0, self._received
        found, self._received = self._received[:length], self._received[length:]
        return int(head.split()[1]), found

    def error(self) -> tuple[int, Any]:
        """The status and the text of the next answer, which is an error, and the last one of its connection."""
        status, body = self.answer()
        assert self.ended(), "the connection stays open"
        return status, json.loads(body)["error"] if body else body

    def ended(self) -> bool:
        """Waits for the end of the connection, without anything more before it."""
        return not self._receive() and not self._received

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(2**16)
        except ConnectionError:
            data = b""
        self._received += data
        return bool(data)


@contextlib.contextmanager
def connected(server: Process, *, seconds: float = 30.0, buffer: int = 0) -> Iterator[Wire]:
    """A connection, on which nothing takes longer than `seconds`; it has room for `buffer` bytes that nobody reads."""
    with socket.socket() as client:
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(seconds)
        client.connect(("127.0.0.1", server.rest_port))
        yield Wire(client)
