"""The threads of TensorFlow Serving: those that a load makes, and the limit of gRPC's."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tests.stand_in import log
from tfserving.serving.embedded.grpc import over_grpcio
from tfserving.serving.embedded.grpc.face import HEALTH, Methods
from tfserving.serving.embedded.grpc.handler import Settings

# What each load makes to measure the model's size on the disk.
POOL = 256
# With 8 threads gRPC was seen to refuse from 5 calls at a time on, with 36 never at 32 calls: so many only poll.
POLLING = 4
REFUSAL = "Server Threadpool Exhausted"


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Has the threads of one load, which sleep; aborts the process where one can't be made, as TensorFlow does."""
    loaded = threading.Event()
    try:
        for _ in range(POOL):
            threading.Thread(target=loaded.wait, name="tf_ModelDiskSizePool", daemon=True).start()
    except RuntimeError:
        thread = "Thread tf_ModelDiskSizePool creation via pthread_create() failed."
        log.aborting(f"Check failed: ret == 0 (11 vs. 0) {thread}")
        os.abort()
    try:
        yield
    finally:
        loaded.set()


class LimitedTransport(over_grpcio.OverGrpcio):
    """gRPC that refuses what exceeds its threads, whatever the method, before anything counts it."""

    def __init__(self, methods: Methods, host: str, port: int, settings: Settings, **options: Any) -> None:
        super().__init__(methods, host, port, settings, **options)
        # grpcio looks the method up at every call.
        limit = _Limit(self._handlers.service, max(1, settings.threads - POLLING))
        self._handlers.service = limit  # type: ignore[method-assign]


class _Limit:
    def __init__(self, service: Callable[[grpc.HandlerCallDetails], Any], most: int) -> None:
        self._service = service
        self._most = most
        self._lock = threading.Lock()
        self._in_flight = 0
        beside = over_grpcio.Beside(1, "grpc-exhausted")
        self._refusal = over_grpcio.refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, REFUSAL, beside)

    def __call__(self, details: grpc.HandlerCallDetails) -> Any:
        handler = self._service(details)
        if details.method == HEALTH or handler.stream_unary is None:
            return handler
        with self._lock:
            if self._in_flight >= self._most:
                return self._refusal
            self._in_flight += 1
        return grpc.stream_unary_rpc_method_handler(self._counted(handler.stream_unary))

    def _counted(self, behaviour: Any) -> Any:
        def run(messages: Iterator[bytes], context: Any) -> Any:
            try:
                return behaviour(messages, context)
            finally:
                with self._lock:
                    self._in_flight -= 1

        # By this name grpcio finds who shall run it.
        run.experimental_thread_pool = getattr(behaviour, "experimental_thread_pool", None)  # type: ignore[attr-defined]
        return run
