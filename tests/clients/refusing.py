"""A server before a server: it refuses some gRPC calls, as one whose threads are all busy, and passes on the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from tfserving.clients.errors import BUSY

# Whether a call is refused: its method's name, and how many calls there are at the moment, this one among them.
Refuses = Callable[[str, int], bool]


class Refusing(grpc.GenericRpcHandler):
    """`calls` counts what came, `refused` what was refused."""

    def __init__(self, server: str, refuses: Refuses, text: str) -> None:
        self.calls = self.refused = 0
        self._channel = grpc.insecure_channel(server)
        self._refuses, self._text = refuses, text
        self._now = 0
        self._changed = threading.Condition()

    def service(self, call: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer(call.method, request, context))

    def _answer(self, method: str, request: bytes, context: Any) -> bytes:
        with self._changed:
            self.calls += 1
            self._now += 1
            refused = self._refuses(method.rsplit("/", 1)[1], self._now)
            self.refused += refused
            self._changed.notify_all()
        try:
            if refused:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self._text)
            send: Any = self._channel.unary_unary(method)
            return bytes(send(request, timeout=context.time_remaining()))
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
            raise
        finally:
            with self._changed:
                self._now -= 1


@contextlib.contextmanager
def refusing(server: str, refuses: Refuses, text: str = BUSY) -> Iterator[tuple[str, Refusing]]:
    """HOST:PORT before the gRPC server at `server`, and what counts its calls."""
    handler = Refusing(server, refuses, text)
    before = grpc.server(futures.ThreadPoolExecutor(64), handlers=[handler])
    port = before.add_insecure_port("127.0.0.1:0")
    before.start()
    try:
        yield f"127.0.0.1:{port}", handler
    finally:
        before.stop(0).wait()
        handler._channel.close()
