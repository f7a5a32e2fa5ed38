"""gRPC's server reflection, with which grpcurl and other tools list the services of a server.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md. The two versions, v1 and v1alpha, differ only
in the package name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import DESCRIPTOR, ServerReflectionRequest, ServerReflectionResponse

from tfserving.foundation.messages import POOL

ALPHA = reflection.SERVICE_NAME
SERVICES = (ALPHA.replace("v1alpha", "v1"), ALPHA)
METHODS = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)
STREAMS = 8


class Reflection:
    """Describes `services`, in separate threads. Refuses streams with RESOURCE_EXHAUSTED while 8 are open.

    A client can keep a stream open as long as it likes. That must not block predictions or the end of the server.
    """

    def __init__(self, *services: str) -> None:
        self._servicer = reflection.ReflectionServicer((*services, *SERVICES), _described(services))
        # grpcio runs the method in the pool of this attribute. One more thread refuses streams beyond the limit.
        self.experimental_thread_pool = ThreadPoolExecutor(STREAMS + 1, thread_name_prefix="reflection")
        self._streams: set[grpc.ServicerContext] = set()
        self._ended = False
        self._lock = threading.Lock()

    def handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns the handler for a grpcio server."""
        return grpc.stream_stream_rpc_method_handler(
            self, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )

    def __call__(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Serves a stream of requests."""
        with self._lock:
            if self._ended:
                return
            full = len(self._streams) >= STREAMS
            if not full:
                self._streams.add(context)
        if full:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS} reflection streams are already open; close one of them"
            )
        try:
            yield from self._servicer.ServerReflectionInfo(requests, context)
        finally:
            with self._lock:
                self._streams.discard(context)

    def end(self) -> None:
        """Ends all streams, also later ones."""
        with self._lock:
            self._ended = True
            streams = list(self._streams)
        for context in streams:
            context.cancel()


def _described(services: tuple[str, ...]) -> DescriptorPool:
    """Returns a pool with the files of `services` and of reflection, and their dependencies."""
    pool = DescriptorPool()
    added: set[str] = set()

    def add(file: Any) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        described = FileDescriptorProto()
        file.CopyToProto(described)
        pool.Add(described)

    for service in services:
        if service == HEALTH_SERVICE:
            pool.Add(text_format.Parse(_HEALTH, FileDescriptorProto()))
        else:
            add(POOL.FindFileContainingSymbol(service))
    alpha = FileDescriptorProto()
    DESCRIPTOR.CopyToProto(alpha)
    pool.Add(alpha)
    newer = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    pool.Add(text_format.Parse(newer, FileDescriptorProto()))
    return pool


HEALTH_SERVICE = "grpc.health.v1.Health"
# https://github.com/grpc/grpc/blob/master/doc/health-checking.md
_HEALTH = """
name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
message_type {
  name: "HealthCheckRequest"
  field { name: "service" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING json_name: "service" }
}
message_type {
  name: "HealthCheckResponse"
  field {
    name: "status" number: 1 label: LABEL_OPTIONAL type: TYPE_ENUM json_name: "status"
    type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus"
  }
  enum_type {
    name: "ServingStatus"
    value { name: "UNKNOWN" number: 0 }
    value { name: "SERVING" number: 1 }
    value { name: "NOT_SERVING" number: 2 }
    value { name: "SERVICE_UNKNOWN" number: 3 }
  }
}
service {
  name: "Health"
  method {
    name: "Check"
    input_type: ".grpc.health.v1.HealthCheckRequest"
    output_type: ".grpc.health.v1.HealthCheckResponse"
  }
}
"""
