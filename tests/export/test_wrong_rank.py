"""Tensors of wrong ranks and sizes, sent to every sample on every model server that is there: it must live on."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.export import aborting
from tests.export.conftest import ExportedFleet
from tests.servers import ModelServer
from tests.serving.embedded.running import Process
from tfserving.export.manifest import ServedSignature, read_manifest
from tfserving.export.servable import TensorSpec
from tfserving.foundation.golden import GoldenRequest, read_golden, versions_on_disk
from tfserving.foundation.messages import PredictRequest, PredictResponse
from tfserving.foundation.tensors import Array, from_proto, to_proto

# The samples are trained once.
pytestmark = pytest.mark.xdist_group("samples")
Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = ((), (0,), (0, 0), (1, 0, 1), *((size,) * rank for rank in range(1, 7) for size in (1, 2)))
CONFIG = """config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}
"""


@dataclass(frozen=True)
class Sample:
    """A signature of a sample, a golden request to it, and what it takes."""

    model: str
    folder: Path
    golden: GoldenRequest
    signature: ServedSignature

    def wrong(self) -> Iterator[tuple[str, Array]]:
        """Each of its inputs in each of many shapes, with the value that the golden request begins with."""
        for name, array in self.golden.inputs.items():
            for shape in shapes(array.shape):
                yield name, np.full(shape, array.ravel()[0], array.dtype)

    def admits(self, name: str, array: Array) -> bool:
        """Whether the signature's shape for the input `name` lets `array` through."""
        return self.signature.inputs[name].admits(array.shape)


def shapes(right: Shape) -> list[Shape]:
    """Ranks from 0 to 6, the shape `right` with a dimension more or less, and with each of its own none or too large."""
    changed = [(*right[:axis], size, *right[axis + 1 :]) for axis in range(len(right)) for size in (0, right[axis] + 1)]
    return list(dict.fromkeys([*SHAPES, right[1:], right[:-1], (1, *right), (*right, 1), *changed]))


def of_fleet(models: Path) -> list[Sample]:
    samples = []
    for folder in sorted(models.iterdir()):
        (version,) = versions_on_disk(folder).values()
        signatures = read_manifest(version).signatures
        # Requests to classify or to regress hold tf.Examples, whose tensor the server makes.
        first = {request.signature: request for request in reversed(read_golden(version).requests)}
        for name, request in first.items():
            if request.method == "predict":
                samples.append(Sample(folder.name, version, request, signatures[name]))
    return samples


@pytest.fixture(scope="module")
def samples(exported_fleet: ExportedFleet) -> list[Sample]:
    found = of_fleet(exported_fleet.models)
    assert {sample.model for sample in found} == {folder.name for folder in exported_fleet.models.iterdir()}
    return found


@pytest.fixture(scope="module")
def server(engine: ModelServer, exported_fleet: ExportedFleet, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The samples on one of this machine's model servers."""
    config = tmp_path_factory.mktemp("wrong") / "models.config"
    lines = [CONFIG.format(name=folder.name, path=folder) for folder in exported_fleet.models.iterdir()]
    config.write_text(f"model_config_list {{ {''.join(lines)} }}")
    process = Process(f"--model_config_file={config}", engine=engine)
    yield process.ready()
    process.stop()


def test_no_tensor_over_grpc_ends_a_server(server: Process, samples: list[Sample]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )

        def ask(sample: Sample, inputs: dict[str, Array]) -> dict[str, Array]:
            request = PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = sample.model, sample.golden.signature
            for name, array in inputs.items():
                request.inputs[name].CopyFrom(to_proto(array))
            return {name: from_proto(value) for name, value in predict(request, timeout=60).outputs.items()}

        for sample in samples:
            for name, array in sample.wrong():
                what = sample.model, sample.golden.signature, name, array.shape
                try:
                    ask(sample, {**sample.golden.inputs, name: array})
                    code = grpc.StatusCode.OK
                except grpc.RpcError as error:
                    code = error.code()
                allowed = [grpc.StatusCode.INVALID_ARGUMENT, *[grpc.StatusCode.OK] * sample.admits(name, array)]
                assert code in allowed, what
            outputs = ask(sample, dict(sample.golden.inputs))
            assert outputs.keys() == sample.golden.outputs.keys(), sample.model
            for name, wanted in sample.golden.outputs.items():
                assert_near(outputs[name], wanted)
    assert server.process.poll() is None


def test_no_tensor_over_rest_ends_a_server(server: Process, samples: list[Sample]) -> None:
    def ask(sample: Sample, inputs: dict[str, Array]) -> tuple[int, Any]:
        columns = {name: as_json(array) for name, array in inputs.items()}
        body = {"signature_name": sample.golden.signature, "inputs": columns}
        return post(server, f"{sample.model}:predict", body)

    for sample in samples:
        for name, array in sample.wrong():
            # JSON has no size for what comes below none.
            shape = array.shape[: array.shape.index(0) + 1] if 0 in array.shape else array.shape
            status, _ = ask(sample, {**sample.golden.inputs, name: array})
            allowed = [400, *[200] * sample.admits(name, np.empty(shape))]
            assert status in allowed, (sample.model, sample.golden.signature, name, array.shape)
        assert ask(sample, dict(sample.golden.inputs))[0] == 200, sample.model
    assert server.process.poll() is None


def test_a_session_alone_refuses_what_does_not_fit_a_sample(samples: list[Sample]) -> None:
    runs, expected = [], []
    for sample in samples:
        right = {name: array.shape for name, array in sample.golden.inputs.items()}
        # What the client may leave out a server fills in.
        right |= {name: (1,) for name in sample.signature.optional}
        cases = [(name, shape) for name, size in right.items() for shape in shapes(size)]
        feeds = [{**right, name: shape} for name, shape in cases]
        runs.append({"folder": str(sample.folder), "signature": sample.golden.signature, "feeds": feeds})
        expected += [(sample, name, shape) for name, shape in cases]
    (done,) = aborting.run_apart(runs)
    assert done["ended"] == 0, expected[len(done["said"])]
    for (sample, name, shape), said in zip(expected, done["said"], strict=True):
        spec: TensorSpec = sample.signature.inputs[name]
        refused = said.startswith("INVALID_ARGUMENT: Shape of tensor ")
        assert refused != spec.admits(shape), (sample.model, name, shape, said)


def as_json(array: Array) -> Any:
    if array.dtype != object:
        return array.tolist()
    encoded = np.empty(array.shape, object)
    encoded.ravel()[:] = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
    return encoded.tolist()


def post(server: Process, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.rest_port}/v1/models/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def assert_near(got: Array, wanted: Array) -> None:
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(got, wanted)
