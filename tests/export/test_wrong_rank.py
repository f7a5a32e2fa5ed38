"""Tensors of wrong ranks and sizes, sent to every sample on every model server that is there: it must live on."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.export import aborting
from tests.export.conftest import ExportedFleet
from tests.servers import ModelServer
from tests.serving.embedded.running import Asker, Process
from tfserving.export.manifest import ServedSignature, read_manifest
from tfserving.foundation.golden import GoldenRequest, read_golden, versions_on_disk
from tfserving.foundation.tensors import Array

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

    def admits(self, name: str, shape: Shape) -> bool:
        """Whether the signature lets a tensor of `shape` through as its input `name`."""
        return self.signature.inputs[name].admits(shape)


def shapes(right: Shape) -> list[Shape]:
    """Ranks from 0 to 6; `right` with a dimension more or less, and with each of its own 0 or too large."""
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
def ask(
    engine: ModelServer, exported_fleet: ExportedFleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asker]:
    """The samples on one of this machine's model servers, which is still there when all was sent."""
    config = tmp_path_factory.mktemp("wrong") / "models.config"
    lines = [CONFIG.format(name=folder.name, path=folder) for folder in exported_fleet.models.iterdir()]
    config.write_text(f"model_config_list {{ {''.join(lines)} }}")
    server = Process(f"--model_config_file={config}", engine=engine)
    asker = Asker(server.ready())
    yield asker
    asker.close()
    assert server.process.poll() is None
    server.stop()


def test_no_tensor_over_grpc_ends_a_server(ask: Asker, samples: list[Sample]) -> None:
    for sample in samples:
        for name, array in sample.wrong():
            try:
                ask.predict(sample.model, {**sample.golden.inputs, name: array}, signature=sample.golden.signature)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
            allowed = {"INVALID_ARGUMENT", "OK"} if sample.admits(name, array.shape) else {"INVALID_ARGUMENT"}
            assert code in allowed, (sample.model, sample.golden.signature, name, array.shape)
        answered = ask.predict(sample.model, sample.golden.inputs, signature=sample.golden.signature)
        for name, wanted in sample.golden.outputs.items():
            assert_near(answered[name], wanted)


def test_no_tensor_over_rest_ends_a_server(ask: Asker, samples: list[Sample]) -> None:
    def post(sample: Sample, inputs: Mapping[str, Array]) -> int:
        columns = {name: as_json(array) for name, array in inputs.items()}
        status, _ = ask.post(f"{sample.model}:predict", {"signature_name": sample.golden.signature, "inputs": columns})
        return status

    for sample in samples:
        for name, array in sample.wrong():
            status = post(sample, {**sample.golden.inputs, name: array})
            # JSON shows no sizes below one that is 0: the embedded server takes those of the signature.
            allowed = {200, 400} if 0 in array.shape or sample.admits(name, array.shape) else {400}
            assert status in allowed, (sample.model, sample.golden.signature, name, array.shape)
        assert post(sample, sample.golden.inputs) == 200, sample.model


def test_a_session_alone_refuses_what_does_not_fit_a_sample(samples: list[Sample]) -> None:
    runs, expected = [], []
    for sample in samples:
        right = {name: array.shape for name, array in sample.golden.inputs.items()}
        # What the client may leave out a server fills in.
        right |= dict.fromkeys(sample.signature.optional, (1,))
        cases = [(name, shape) for name, size in right.items() for shape in shapes(size)]
        feeds = [{**right, name: shape} for name, shape in cases]
        runs.append({"folder": str(sample.folder), "signature": sample.golden.signature, "feeds": feeds})
        expected += [(sample, name, shape) for name, shape in cases]
    (done,) = aborting.run_apart(runs)
    assert done["ended"] == 0, expected[len(done["said"])]
    for (sample, name, shape), said in zip(expected, done["said"], strict=True):
        refused = said.startswith("INVALID_ARGUMENT: Shape of tensor ")
        assert refused != sample.admits(name, shape), (sample.model, name, shape, said)


def as_json(array: Array) -> Any:
    if array.dtype != object:
        return array.tolist()
    encoded = np.empty(array.shape, object)
    encoded.ravel()[:] = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
    return encoded.tolist()


def assert_near(got: Array, wanted: Array) -> None:
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(got, wanted)
