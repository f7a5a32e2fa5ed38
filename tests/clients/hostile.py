"""Servers that answer as no model server should: what is sent is bytes, or a function that sends them."""

from __future__ import annotations

import contextlib
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

Send = bytes | Callable[[socket.socket, threading.Event], None]


class HttpServer:
    """Reads a request, sends what `answers` has for the end of its path, and closes the connection.

    With `keep` the connection is kept: what is sent is a whole answer.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.answers: dict[str, Send] = {}
        self.asked: list[str] = []
        self._keep = keep
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as reading:
            while line := reading.readline():
                path = line.split()[1].decode()
                self.asked.append(path)
                length = 0
                while (header := reading.readline()) not in (b"\r\n", b""):
                    field, _, value = header.partition(b":")
                    length = int(value) if field.lower() == b"content-length" else length
                reading.read(length)
                name = max((end for end in self.answers if path.endswith(end)), key=len)
                send = self.answers[name]
                if isinstance(send, bytes):
                    connection.sendall(send)
                else:
                    send(connection, self._ended)
                if not self._keep:
                    return


@contextlib.contextmanager
def http_server(*, keep: bool = False) -> Iterator[HttpServer]:
    server = HttpServer(keep=keep)
    try:
        yield server
    finally:
        server.close()


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return head(*headers, f"content-length: {len(body)}", status=status) + body


def for_ever(piece: bytes, start: bytes = b"", *, pause: float = 0.0) -> Send:
    """Sends `start`, and then `piece` again and again."""

    def send(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(start)
        while not ended.wait(pause):
            connection.sendall(piece)

    return send


def gzip_bomb(size: int) -> bytes:
    """A gzip file of `size` zeros, made without inflating it; its checksum is wrong."""
    block = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    # Each block stands for itself after a full flush.
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed * (size // block) + packer.flush() + bytes(8)


class GrpcAnswers(grpc.GenericRpcHandler):
    """Answers each method with what `answers` has for its last name: bytes, or what a function of the context returns.

    A list is sent as that many messages, where one is due.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def service(self, call: Any) -> Any:
        answer = self.answers[call.method.rsplit("/", 1)[1]]
        if isinstance(answer, list):
            return grpc.unary_stream_rpc_method_handler(lambda _request, _context: iter(answer))
        return grpc.unary_unary_rpc_method_handler(
            lambda _request, context: answer if isinstance(answer, bytes) else answer(context)
        )


@contextlib.contextmanager
def grpc_server() -> Iterator[tuple[str, GrpcAnswers]]:
    """The URL of a server, and what it answers."""
    handler = GrpcAnswers()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[handler], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", handler
    finally:
        server.stop(0).wait()
