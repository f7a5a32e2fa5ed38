"""Strategies of hypothesis that generate requests from the parts of requests, in any combination."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.serving.embedded.running import ROOT
from tfserving.foundation.messages import ClassificationRequest, MultiInferenceRequest, PredictRequest

MODELS = sorted(folder.name for folder in (ROOT / "tests/conformance/models").iterdir() if folder.is_dir())
SIGNATURES = ("serving_default", "classify", "regress", "both", "float32", "string", "int64", "double", "none", "")
INPUTS = ("x", "s", "inputs", "a", "b", "f", "")
SERVICE = "/tensorflow.serving.PredictionService/"
# No product of these is a size that a machine would try to hold: it is small, or more than any message.
SIZES = (0, 1, 1, 2, 3, 5, -1, -2, 2**31, 2**40, 2**62)


@dataclass(frozen=True)
class Rest:
    """A POST request."""

    path: str
    body: bytes


@dataclass(frozen=True)
class Grpc:
    """A unary request."""

    method: str
    body: bytes


def _scalars() -> st.SearchStrategy[Any]:
    encoded = st.binary(max_size=8).map(lambda data: {"b64": base64.b64encode(data).decode()})
    numbers = st.one_of(st.integers(), st.integers(-(2**70), 2**70), st.floats())
    return st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), encoded)


def _values() -> st.SearchStrategy[Any]:
    regular = st.integers(1, 4).flatmap(
        lambda columns: st.lists(st.lists(st.floats(width=32), min_size=columns, max_size=columns), max_size=4)
    )
    anything = st.recursive(
        _scalars(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.sampled_from((*INPUTS, "b64")), inner, max_size=3)
        ),
        max_leaves=12,
    )
    return st.one_of(regular, anything)


@st.composite
def rest_requests(draw: st.DrawFn) -> Rest:
    """A request with a JSON document of some of the members there are."""
    keys = draw(st.lists(st.sampled_from(("instances", "inputs", "examples", "context")), max_size=2))
    document: dict[str, Any] = {key: draw(_values()) for key in keys}
    if draw(st.booleans()):
        document["signature_name"] = draw(st.one_of(st.sampled_from(SIGNATURES), _scalars()))
    which = draw(st.sampled_from(("", "/versions/1", "/versions/2", "/labels/stable")))
    verb = draw(st.sampled_from(("predict", "predict", "classify", "regress")))
    return Rest(f"/v1/models/{draw(st.sampled_from(MODELS))}{which}:{verb}", json.dumps(document).encode())


@st.composite
def grpc_requests(draw: st.DrawFn) -> Grpc:
    """A Predict, Classify, Regress or MultiInference request; the messages are whole, what is in them is anything."""
    method = draw(st.sampled_from(("Predict", "Predict", "Classify", "Regress", "MultiInference")))
    if method == "Predict":
        request = PredictRequest()
        _fill_spec(draw, request.model_spec)
        for name in draw(st.lists(st.sampled_from(INPUTS), max_size=3)):
            _fill_tensor(draw, request.inputs[name])
        request.output_filter.extend(draw(st.lists(st.sampled_from(("y", "outputs", "none")), max_size=2)))
    else:
        request = MultiInferenceRequest() if method == "MultiInference" else ClassificationRequest()
        _fill_input(draw, request.input)
        if method == "MultiInference":
            for _ in range(draw(st.integers(0, 2))):
                task = request.tasks.add(method_name=draw(st.sampled_from(("tensorflow/serving/classify", "", "x"))))
                _fill_spec(draw, task.model_spec)
        else:
            _fill_spec(draw, request.model_spec)
    return Grpc(SERVICE + method, request.SerializeToString())


def _fill_spec(draw: st.DrawFn, spec: Any) -> None:
    spec.name = draw(st.sampled_from(MODELS))
    spec.signature_name = draw(st.sampled_from(SIGNATURES))
    choice = draw(st.integers(0, 4))
    if choice == 1:
        spec.version.value = draw(st.sampled_from((1, 2, -1, 2**63 - 1)))
    elif choice == 2:
        spec.version_label = draw(st.sampled_from(("stable", "", "none")))


def _fill_tensor(draw: st.DrawFn, tensor: Any) -> None:
    tensor.dtype = draw(st.one_of(st.sampled_from((1, 1, 3, 7, 9)), st.integers(0, 130)))
    for size in draw(st.lists(st.sampled_from(SIZES), max_size=4)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 0
    for field, values in {
        "float_val": st.floats(width=32),
        "double_val": st.floats(),
        "int_val": st.integers(-(2**31), 2**31 - 1),
        "int64_val": st.integers(-(2**63), 2**63 - 1),
        "string_val": st.binary(max_size=4),
        "bool_val": st.booleans(),
    }.items():
        if draw(st.integers(0, 3)) == 0:
            getattr(tensor, field).extend(draw(st.lists(values, max_size=6)))
    if draw(st.integers(0, 4)) == 0:
        tensor.tensor_content = draw(st.binary(max_size=24))


def _fill_input(draw: st.DrawFn, sent: Any) -> None:
    with_context = draw(st.booleans())
    examples = sent.example_list_with_context if with_context else sent.example_list
    for example in [examples.examples.add() for _ in range(draw(st.integers(0, 3)))]:
        for name in draw(st.lists(st.sampled_from(INPUTS), max_size=3)):
            feature = example.features.feature[name]
            kind = draw(st.integers(0, 3))
            if kind == 0:
                feature.float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=3)))
            elif kind == 1:
                feature.int64_list.value.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
            elif kind == 2:
                feature.bytes_list.value.extend(draw(st.lists(st.binary(max_size=4), max_size=3)))
