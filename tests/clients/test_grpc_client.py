"""What is the gRPC client's own: deadlines, odd answers, a server that comes up late. Its server here is grpcio's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from tests.servers import free_ports
from tfserving.clients import connect
from tfserving.clients.errors import Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unimplemented
from tfserving.foundation.messages import GetModelStatusResponse, PredictResponse, TensorProto

INPUTS = {"x": np.zeros(1, np.float32)}
Handler = bytes | Callable[[grpc.ServicerContext], bytes]


class Methods(grpc.GenericRpcHandler):
    """Answers the methods of the given last names: with bytes, or with what a function returns."""

    def __init__(self, **handlers: Handler) -> None:
        self._handlers = handlers

    def service(self, call: Any) -> Any:
        handler = self._handlers.get(call.method.rsplit("/", 1)[1])
        if handler is None:
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: handler if isinstance(handler, bytes) else handler(context)
        )


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a gRPC server with the given methods; returns its address."""
    servers = []

    def start(port: int = 0, **handlers: Handler) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Methods(**handlers)])
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def test_a_slow_server_is_given_up_at_the_deadline(serve: Callable[..., str]) -> None:
    release = threading.Event()

    def hang(_: grpc.ServicerContext) -> bytes:
        release.wait(20)
        return b""

    with connect("grpc://" + serve(Predict=hang)) as client:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            client.predict("m", INPUTS, timeout=0.3)
        assert time.monotonic() - start < 5
        assert (caught.value.model, caught.value.protocol) == ("m", "grpc")
    release.set()


def test_the_servers_own_text_and_code_arrive(serve: Callable[..., str]) -> None:
    def full(context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "OOM when allocating tensor")
        return b""

    with connect("grpc://" + serve(Predict=full)) as client, pytest.raises(ResourceExhausted) as caught:
        client.predict("m", INPUTS)
    assert caught.value.text == "OOM when allocating tensor"


def test_a_server_of_something_else_is_recognised(serve: Callable[..., str]) -> None:
    with connect("grpc://" + serve()) as client, pytest.raises(Unimplemented):
        client.status("m")


def test_a_tensor_that_cannot_be_is_not_handed_on(serve: Callable[..., str]) -> None:
    answer = PredictResponse()
    answer.outputs["y"].CopyFrom(TensorProto(dtype=1, tensor_content=b"123"))
    address = serve(Predict=answer.SerializeToString())
    with (
        connect(f"grpc://{address}") as client,
        pytest.raises(Internal, match="can't be read: tensor_content has 3 bytes"),
    ):
        client.predict("m", INPUTS)


def test_bytes_that_are_no_message_are_an_error(serve: Callable[..., str]) -> None:
    with connect("grpc://" + serve(Predict=b"\xff\xff")) as client, pytest.raises(Internal):
        client.predict("m", INPUTS)


def test_waiting_outlasts_a_server_that_is_not_up_yet(serve: Callable[..., str]) -> None:
    (port,) = free_ports(1)
    answer = GetModelStatusResponse()
    answer.model_version_status.add(version=4, state=30)
    waited = threading.Event()
    found: list[int] = []

    def wait() -> None:
        with connect(f"grpc://127.0.0.1:{port}") as client:
            with pytest.raises(DeadlineExceeded):
                client.wait_until_available("m", timeout=0.2)
            waited.set()
            found.append(client.wait_until_available("m", timeout=20))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert waited.wait(10)
    serve(port, GetModelStatus=answer.SerializeToString())
    waiting.join(20)
    assert found == [4]


def test_closing_cancels_what_is_in_flight(serve: Callable[..., str]) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(_: grpc.ServicerContext) -> bytes:
        asked.set()
        release.wait(20)
        return b""

    client = connect("grpc://" + serve(Predict=hang))

    def close() -> None:
        assert asked.wait(10)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(Cancelled):
        client.predict("m", INPUTS, timeout=15)
    release.set()
    closing.join()


def test_the_environments_proxy_is_not_used(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    answer = GetModelStatusResponse()
    answer.model_version_status.add(version=4, state=30)
    with connect("grpc://" + serve(GetModelStatus=answer.SerializeToString())) as client:
        assert client.status("m")[0].state == "AVAILABLE"
