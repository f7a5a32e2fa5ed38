"""A server before a server: it passes on what comes, and names a kind of device in the headers of its responses."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from tfserving.foundation.devices import DEVICE_HEADER

_NAMING = ("GetModelStatus", "GetModelMetadata")


class _Naming(grpc.GenericRpcHandler):
    def __init__(self, server: str, device: str) -> None:
        self.channel = grpc.insecure_channel(server)
        self._device = device

    def service(self, call: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._pass_on(call.method, request, context)
        )

    def _pass_on(self, method: str, request: bytes, context: Any) -> bytes:
        if method.rsplit("/", 1)[1] in _NAMING:
            # A key whose values are bytes, too, as proxies add them.
            context.send_initial_metadata(((DEVICE_HEADER, self._device), ("trace-bin", b"\x00\xff")))
        try:
            return bytes(self.channel.unary_unary(method)(request, timeout=context.time_remaining()))
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
            raise


@contextlib.contextmanager
def naming_grpc(server: str, device: str) -> Iterator[str]:
    """HOST:PORT before the gRPC server at `server`."""
    handler = _Naming(server, device)
    before = grpc.server(futures.ThreadPoolExecutor(64), handlers=[handler])
    port = before.add_insecure_port("127.0.0.1:0")
    before.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        before.stop(0).wait()
        handler.channel.close()


@contextlib.contextmanager
def naming_rest(server: str, device: str) -> Iterator[str]:
    """HOST:PORT before the REST server at `server`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            connection = http.client.HTTPConnection(server)
            connection.request(self.command, self.path, body or None)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            self.send_response(response.status)
            self.send_header("content-length", str(len(data)))
            if self.command == "GET":
                # The names of headers have no case.
                self.send_header(DEVICE_HEADER.title(), device)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = pass_on  # noqa: N815 - named by the library

        def log_message(self, *_: Any) -> None:
            pass

    before = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=before.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{before.server_port}"
    finally:
        before.shutdown()
        thread.join()
        before.server_close()
