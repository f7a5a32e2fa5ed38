"""gRPC's server reflection, by which grpcurl and its like learn what can be asked.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from tfserving.foundation.messages import POOL

METHOD = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
STREAMS = 8


class Reflection:
    """Answers what there is of `services`, in threads of their own; RESOURCE_EXHAUSTED when 8 streams are open already.

    A stream may last as long as its client likes, which must keep nobody from predicting, nor the server from ending.
    """

    def __init__(self, *services: str) -> None:
        self._servicer = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME), POOL)
        # By this name grpcio finds who shall run a method.
        # One thread is left to refuse the stream that is one too many.
        self.experimental_thread_pool = ThreadPoolExecutor(STREAMS + 1, thread_name_prefix="reflection")
        self._streams: set[grpc.ServicerContext] = set()
        self._ended = False
        self._lock = threading.Lock()

    def handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        """For a grpcio server."""
        return grpc.stream_stream_rpc_method_handler(
            self, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )

    def __call__(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Answers a stream of requests."""
        with self._lock:
            if self._ended:
                return
            full = len(self._streams) >= STREAMS
            if not full:
                self._streams.add(context)
        if full:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS} reflection streams are open already; end one of them"
            )
        try:
            yield from self._servicer.ServerReflectionInfo(requests, context)
        finally:
            with self._lock:
                self._streams.discard(context)

    def end(self) -> None:
        """Ends the streams, and those to come."""
        with self._lock:
            self._ended = True
            streams = list(self._streams)
        for context in streams:
            context.cancel()
