"""gRPC clients that send slowly, too much, too many or nothing at all keep nobody else waiting and fill nothing."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from tests.servers import GRPCIO, ModelServer
from tests.serving.embedded.running import Asker, Process, Start, both_embedded, listener, together, wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import PredictRequest, TensorProto
from tfserving.foundation.tensors import to_proto
from tfserving.serving.embedded.grpc import receiving
from tfserving.serving.embedded.grpc.tensor_proto import field

pytestmark = [both_embedded, together]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
THREADS = 2


@pytest.fixture
def server(start: Start, models: Path, engine: ModelServer) -> Process:
    return start(
        *(["--grpc_receive_timeout_in_ms=3000"] if engine == GRPCIO else []),
        "--model_name=kinds",
        f"--model_base_path={models}/kinds",
        f"--grpc_max_threads={THREADS}",
        "--max_body_bytes=1000000",
        "--max_grpc_parts=100000",
        "--enable_grpc_healthcheck_service",
    ).ready()


@pytest.fixture
def ask(server: Process) -> Iterator[Asker]:
    ask = Asker(server)
    yield ask
    ask.close()


def send(ask: Asker, data: bytes, method: str = PREDICT) -> tuple[str, str]:
    """The code and the text of a call's status."""
    call: Any = ask.channel.unary_unary(method)
    try:
        call(data, timeout=30)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def predict_request(**tensor: Any) -> bytes:
    """A request of any tensor, which may be one that no client makes."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "kinds", "float32"
    shape = tensor.pop("shape")
    for key, value in tensor.items():
        if isinstance(value, list):
            getattr(request.inputs["x"], key).extend(value)
        else:
            setattr(request.inputs["x"], key, value)
    for size in shape:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    return bytes(request.SerializeToString())


def works(ask: Asker) -> None:
    begun = time.monotonic()
    assert ask.predict("kinds", {"x": rows(1)}, signature="float32")["y"].tolist() == rows(1).tolist()
    assert ask.state("kinds", 1) == "AVAILABLE"
    assert send(ask, b"", "/grpc.health.v1.Health/Check") == ("OK", "")
    assert time.monotonic() - begun < 2


class Half:
    """A call whose message never comes."""

    def __init__(self, ask: Asker, method: str = PREDICT) -> None:
        self._ended = threading.Event()
        call: Any = ask.channel.stream_unary(method)
        self.answer = call.future(self._messages())

    def _messages(self) -> Iterator[bytes]:
        self._ended.wait()
        yield from ()

    def end(self) -> None:
        self._ended.set()


@pytest.mark.parametrize("method", [PREDICT, STATUS, RELOAD])
def test_messages_that_never_come_take_no_thread_and_are_not_awaited_for_ever(
    ask: Asker, method: str, engine: ModelServer
) -> None:
    slow = [Half(ask, method) for _ in range(20)]
    begun = time.monotonic()
    try:
        if engine != GRPCIO:
            # They wait in the library, which has no limit for that.
            works(ask)
            assert not any(half.answer.done() for half in slow)
            return
        while not all(half.answer.done() for half in slow):
            works(ask)
            assert time.monotonic() - begun < 20
        assert {half.answer.code() for half in slow} == {grpc.StatusCode.CANCELLED}
        assert time.monotonic() - begun > 2
    finally:
        for half in slow:
            half.end()


def test_of_very_many_the_oldest_are_ended_first(ask: Asker, engine: ModelServer) -> None:
    slow = [Half(ask) for _ in range(receiving.MOST_SLOW + 50)]
    try:
        if engine == GRPCIO:
            wait_until("room", lambda: sum(half.answer.done() for half in slow) >= 50, 10)
        works(ask)
    finally:
        for half in slow:
            half.end()


def test_a_drain_does_not_wait_for_messages_that_are_not_there(server: Process, ask: Asker) -> None:
    slow = [Half(ask) for _ in range(3)]
    works(ask)
    begun = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert time.monotonic() - begun < 10
    for half in slow:
        half.end()


def test_connections_that_say_nothing_or_nonsense_hold_nothing_up(server: Process, ask: Asker) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.grpc_port), 30))
            connection.sendall((b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100)[number % 4])
        works(ask)


def test_a_tensor_that_declares_more_than_a_message_may_hold_is_refused_before_it_is_made(
    server: Process, ask: Asker
) -> None:
    pid = listener(server.rest_port)
    works(ask)
    before = psutil.Process(pid).memory_info().rss
    hostile = {
        "17 GB of floats": predict_request(dtype=1, shape=[2**32], float_val=[0.5]),
        "4 million rows": predict_request(dtype=1, shape=[4_000_000, 8, 8, 1], float_val=[0.5]),
        "no value at all": predict_request(dtype=2, shape=[1000, 1000]),
        "strings": predict_request(dtype=7, shape=[260_000_000], string_val=[b"x"]),
        "packed strings": predict_request(dtype=7, shape=[60_000], tensor_content=bytes(60_000)),
        "a product beyond 64 bits": predict_request(dtype=1, shape=[2**40, 2**40], float_val=[0.5]),
        "complex numbers": predict_request(dtype=8, shape=[2**30], scomplex_val=[1.0, 2.0]),
    }
    assert all(len(data) < 200 for what, data in hostile.items() if what != "packed strings")
    for what, data in hostile.items():
        code, text = send(ask, data)
        assert (code, text.startswith("tensor parsing error: x")) == ("INVALID_ARGUMENT", True), (what, text)
        assert "1000000 are the most" in text, (what, text)
    # A message of nothing but dimensions, each time others: none of them is kept.
    for number in range(8):
        shape = field(2, b"\x12\x02\x08\x01" * (20_000 + number))
        code, text = send(
            ask,
            field(1, field(1, b"kinds") + field(3, b"float32"))
            + field(2, field(1, b"x") + field(2, b"\x08\x01" + shape)),
        )
        assert code == "INVALID_ARGUMENT"
        assert f"{20_000 + number} dimensions" in text
    assert psutil.Process(pid).memory_info().rss - before < 100e6
    works(ask)


def test_a_message_of_very_many_parts_is_refused_before_protobuf_makes_an_object_of_each(ask: Asker) -> None:
    inputs = b"".join(b"\x12\x0a\x0a\x06%06x\x12\x00" % number for number in range(70_000))
    packed = predict_request(dtype=7, shape=[200_000], tensor_content=bytes(200_000))
    for data in (predict_request(dtype=7, shape=[200_000], string_val=[b""] * 200_000), packed, inputs):
        code, text = send(ask, data)
        assert (code, "--max_grpc_parts" in text) == ("RESOURCE_EXHAUSTED", True)
    works(ask)


def test_a_tensor_may_still_repeat_its_last_value(ask: Asker) -> None:
    request = PredictRequest.FromString(predict_request(dtype=1, shape=[1000, 100], float_val=[0.5, 1.5]))
    call: Any = ask.channel.unary_unary(PREDICT)
    assert len(call(request.SerializeToString(), timeout=30)) > 400_000


def test_a_compressed_message_is_bounded_by_what_it_inflates_to(ask: Asker) -> None:
    call: Any = ask.channel.unary_unary(PREDICT)
    big = PredictRequest()
    big.model_spec.name = "kinds"
    big.inputs["x"].CopyFrom(to_proto(np.zeros(25_000_000, np.float32)))
    with pytest.raises(grpc.RpcError) as error:
        call(big.SerializeToString(), timeout=60, compression=grpc.Compression.Gzip)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    small = PredictRequest()
    small.model_spec.name, small.model_spec.signature_name = "kinds", "float32"
    small.inputs["x"].CopyFrom(to_proto(np.zeros(1000, np.float32)))
    assert call(small.SerializeToString(), timeout=60, compression=grpc.Compression.Gzip)
    works(ask)


def test_bytes_that_are_no_message_are_an_error_of_their_call(ask: Asker) -> None:
    nested = b""
    for _ in range(200):
        nested = b"\x0a" + struct.pack("B", min(len(nested), 127)) + nested[:127]
    for data in (b"\xff" * 100, nested, b"\x12" + b"\xff" * 9, TensorProto(dtype=1).SerializeToString()):
        assert send(ask, data)[0] != "OK"
    works(ask)


def test_predictions_beyond_the_limit_are_refused_and_what_looks_after_the_server_is_not(
    start: Start, models: Path
) -> None:
    server = start(
        "--model_name=slow",
        f"--model_base_path={models}/slow",
        "--max_requests_in_flight=2",
        "--enable_grpc_healthcheck_service",
    ).ready()
    ask = Asker(server)
    call: Any = ask.channel.unary_unary(PREDICT)
    request = PredictRequest()
    request.model_spec.name = "slow"
    request.inputs["steps"].CopyFrom(to_proto(np.array([3000], np.int32)))
    futures = [call.future(request.SerializeToString(), timeout=60) for _ in range(6)]
    for _ in range(5):
        assert send(ask, b"", "/grpc.health.v1.Health/Check") == ("OK", "")
        assert ask.state("slow", 1) == "AVAILABLE"
    codes = [future.code() for future in futures]
    assert sorted(codes, key=str).count(grpc.StatusCode.OK) == 2
    refused = [future.details() for future in futures if future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert refused == ["2 requests are already in flight; try again later"] * 4
