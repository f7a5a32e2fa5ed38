"""Server reflection, asked as grpcurl asks. TensorFlow Serving has none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.serving.embedded.running import Asker, Start, both_embedded, together
from tests.serving.embedded.saved_models import rows
from tfserving.serving.embedded.grpc import reflection

pytestmark = [both_embedded, together]


def reflect(ask: Asker, **asked: Any) -> Any:
    (answer,) = ServerReflectionStub(ask.channel).ServerReflectionInfo(
        iter([ServerReflectionRequest(**asked)]), timeout=30
    )
    return answer


def test_the_services_are_listed(ask: Asker) -> None:
    services = {service.name for service in reflect(ask, list_services="").list_services_response.service}
    assert services == {
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }


def test_a_service_comes_with_all_that_its_messages_need(ask: Asker) -> None:
    answer = reflect(ask, file_containing_symbol="tensorflow.serving.PredictionService").file_descriptor_response
    files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_proto]
    names = {file.name for file in files}
    assert {dependency for file in files for dependency in file.dependency} <= names
    methods = {method.name for file in files for service in file.service for method in service.method}
    assert methods == {"Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"}


def test_what_there_is_not_is_not_found(ask: Asker) -> None:
    assert reflect(ask, file_containing_symbol="no.such").error_response.error_code == 5


def test_the_newer_reflection_is_the_same(ask: Asker) -> None:
    """grpcurl calls it first."""
    call: Any = ask.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )
    asked = [
        ServerReflectionRequest(list_services="*"),
        ServerReflectionRequest(file_containing_symbol="grpc.reflection.v1.ServerReflection"),
        ServerReflectionRequest(file_containing_symbol="tensorflow.serving.PredictRequest"),
    ]
    services, itself, messages = call(iter(asked), timeout=30)
    assert "tensorflow.serving.PredictionService" in {one.name for one in services.list_services_response.service}
    (file,) = map(FileDescriptorProto.FromString, itself.file_descriptor_response.file_descriptor_proto)
    assert (file.package, file.service[0].method[0].input_type) == (
        "grpc.reflection.v1",
        ".grpc.reflection.v1.ServerReflectionRequest",
    )
    assert messages.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_an_unknown_method_of_any_kind_gets_a_status_and_no_message(ask: Asker, kind: str) -> None:
    call: Any = getattr(ask.channel, kind)("/no.such.Service/Method")
    with pytest.raises(grpc.RpcError) as error:
        list(call(b"" if kind.startswith("unary") else iter([b""]), timeout=30))
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_is_listed_when_it_is_on(start: Start, models: Path) -> None:
    flags = (f"--model_base_path={models}/scale", "--enable_grpc_healthcheck_service")
    ask = Asker(start("--model_name=scale", *flags).ready())
    assert "grpc.health.v1.Health" in {
        service.name for service in reflect(ask, list_services="").list_services_response.service
    }
    described = reflect(ask, file_containing_symbol="grpc.health.v1.Health").file_descriptor_response
    (file,) = map(FileDescriptorProto.FromString, described.file_descriptor_proto)
    assert [method.name for method in file.service[0].method] == ["Check"]


def test_streams_that_never_end_keep_nobody_from_predicting_nor_the_server_from_ending(
    start: Start, models: Path
) -> None:
    server = start("--model_name=scale", f"--model_base_path={models}/scale", "--grpc_max_threads=1").ready()
    ask = Asker(server)
    ended = threading.Event()

    def never_end() -> Iterator[Any]:
        yield ServerReflectionRequest(list_services="")
        ended.wait()

    def stream() -> Any:
        return ServerReflectionStub(ask.channel).ServerReflectionInfo(never_end())

    streams = [stream() for _ in range(reflection.STREAMS)]
    for open_one in streams:
        next(open_one)
    with pytest.raises(grpc.RpcError) as error:
        next(stream())
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ask.predict("scale", {"x": rows(1)})["version"].tolist() == [2]
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0
    ended.set()
