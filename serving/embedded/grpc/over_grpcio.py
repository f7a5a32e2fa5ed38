"""gRPC over grpcio: the threads that run calls, and the calls that are refused.

                                  room in the pool         the message, in time
    call ──► a known method? ────────────────────► thread ──────────────────────► it runs ──► a response, or a status
                   │ no                │ no                      │ no
                   ▼                   ▼                         ▼
             UNIMPLEMENTED    RESOURCE_EXHAUSTED            it is cancelled

Predictions have their own pool. Health, status and metadata have another one, so they never wait for predictions. A
reload of the configuration, which may take minutes, has a third.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

import grpc

from tfserving.serving.embedded.core.pool import Pool
from tfserving.serving.embedded.errors import Code, StartError
from tfserving.serving.embedded.grpc import reflection
from tfserving.serving.embedded.grpc.face import PREDICTIONS, RELOAD, Methods
from tfserving.serving.embedded.grpc.handler import (
    CONTROL_THREADS,
    MOST_CALLS,
    MOST_STREAMS,
    Handler,
    Settings,
    full,
    services_of,
    target,
    unknown,
    wait_until_quiet,
)
from tfserving.serving.embedded.grpc.receiving import Receiving
from tfserving.serving.embedded.grpc.reflection import Reflection
from tfserving.serving.embedded.tls import Tls

# In grpcio a call without a deadline has one that is more than a century away.
NO_DEADLINE = 1e9


class OverGrpcio:
    """Methods over grpcio, in a pool of handler threads."""

    def __init__(
        self,
        methods: Methods,
        host: str,
        port: int,
        settings: Settings,
        *,
        receive_seconds: float | None = None,
        tls: Tls | None = None,
        socket_path: str = "",
    ) -> None:
        """A request's message must arrive within `receive_seconds`.

        With `socket_path` the server also listens on that UNIX socket.
        """
        self._open = threading.Event()
        self._open.set()
        self._stopped = threading.Event()
        self._reflection = Reflection(*services_of(methods))
        self._receiving = Receiving(receive_seconds)
        self._pool = settings.pool()
        self._until = 0.0
        self._handlers = _Handlers(
            {
                name: _Behaviour(handler, self._receiving, self._open)
                for name, handler in settings.handlers(methods).items()
            },
            self._pool,
            settings.most_in_flight or MOST_CALLS,
            explain=settings.explain,
        )
        for name in reflection.METHODS:
            self._handlers.add(name, self._reflection.handler())
        self._server = grpc.server(
            # Any executor works, contrary to the type.
            self._pool,  # type: ignore[arg-type]
            handlers=[self._handlers],
            options=(
                ("grpc.max_receive_message_length", settings.largest_message or -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", MOST_STREAMS),
                ("grpc.so_reuseport", int(settings.shared)),
                *((key, int(value) if value.isdecimal() else value) for key, value in settings.options.items()),
            ),
        )
        where = target(host, port)
        try:
            if tls:
                bound = self._server.add_secure_port(where, _credentials(tls))
            else:
                bound = self._server.add_insecure_port(where)
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartError(f"--port={port}: gRPC can't listen on {host}:{port}")
        if socket_path:
            self._listen_on_socket(socket_path)

    def _listen_on_socket(self, path: str) -> None:
        try:
            bound = self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartError(f"--grpc_socket_path={path}: gRPC can't listen there")

    def start(self) -> None:
        """Starts to serve."""
        self._server.start()

    def hold(self) -> None:
        """Pauses the handlers until `finish`, and returns when no more requests arrive.

        gRPC cancels calls that it reads after `refuse`.
        """
        self._open.clear()
        wait_until_quiet(lambda: self._handlers.calls)

    def refuse(self, grace: float) -> None:
        """Closes the port. Requests in flight are cancelled after `grace` seconds."""
        self._until = monotonic() + grace
        self._stopped = self._server.stop(grace)

    def finish(self, grace: float) -> int:  # noqa: ARG002 - `refuse` has it
        """Waits for requests in flight; returns the number that were cancelled."""
        self._reflection.end()
        self._receiving.hurry()
        self._open.set()
        self._stopped.wait()
        return self._pool.load if monotonic() >= self._until else 0


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.encode(), tls.certificate.encode())],
        root_certificates=tls.ca.encode() or None,
        require_client_auth=tls.verify_clients,
    )


class _Behaviour:
    """Runs one method in a thread of its pool.

    It is registered as taking a stream. Otherwise grpcio would read the message itself, in this thread, without a
    timeout.
    """

    def __init__(self, handler: Handler, receiving: Receiving, opened: threading.Event) -> None:
        self._handler = handler
        self._receiving = receiving
        self._opened = opened

    def __call__(self, messages: Iterator[bytes], context: Any) -> bytes:
        """Returns the response's bytes. Raises what `context.abort` raises for an error."""
        data = self._receiving.read(messages, context)
        if data is None:
            # grpcio's text for a call without a message. A cancelled call gets no text.
            name = self._handler.name
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f'"{name}" requires exactly one request message.')
            return b""
        self._opened.wait()
        if not context.is_active():
            # The client no longer waits for it.
            return b""
        left = context.time_remaining()
        code, result = self._handler.handle(data, None if left > NO_DEADLINE else monotonic() + left, context.peer)
        if code is not None:
            context.abort(_STATUS[code], result)
        if self._handler.metadata:
            context.send_initial_metadata(self._handler.metadata)
        return result  # type: ignore[return-value]


class Beside(ThreadPoolExecutor):
    """A pool in the form that grpcio requires for single methods."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(1)
        self._pool = Pool(threads, name)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submits a call to the pool."""
        return self._pool.submit(call, *args, **kwargs)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, behaviours: Mapping[str, _Behaviour], predictions: Pool, most: int, *, explain: bool) -> None:
        control, reload = Beside(CONTROL_THREADS, "grpc-control"), Beside(1, "grpc-reload")
        self._handlers: dict[str, Any] = {}
        for name, behaviour in behaviours.items():
            if name not in PREDICTIONS:
                # grpcio runs the method in the pool of this attribute.
                behaviour.experimental_thread_pool = reload if name == RELOAD else control  # type: ignore[attr-defined]
            self._handlers[name] = grpc.stream_unary_rpc_method_handler(behaviour)
        beside = Beside(1, "grpc-refuse")
        self._full = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, full(most), beside)
        self._unknown = refusal(grpc.StatusCode.UNIMPLEMENTED, unknown(explain=explain), beside)
        self._predictions = predictions
        self._most = most
        # The number of calls so far, counted by the one thread that dispatches them.
        self.calls = 0

    def add(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        """Adds a method that is not a function of bytes."""
        self._handlers[name] = handler

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        self.calls += 1
        handler = self._handlers.get(details.method)
        if handler is None:
            return self._unknown
        if details.method in PREDICTIONS and self._predictions.load >= self._most:
            return self._full
        return handler


def refusal(status: grpc.StatusCode, details: str, pool: ThreadPoolExecutor) -> Any:
    """Returns a handler that refuses a call in a thread of `pool`, without reading its message."""

    def refuse(_messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.abort(status, details)
        yield b""

    refuse.experimental_thread_pool = pool  # type: ignore[attr-defined]
    # Registered as streaming both ways, so clients of any kind of method get a status and no message.
    return grpc.stream_stream_rpc_method_handler(refuse)


_STATUS = {Code(status.value[0]): status for status in grpc.StatusCode if status is not grpc.StatusCode.OK}
