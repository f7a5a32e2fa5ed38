"""The responses of the gRPC methods for classify, regress and multi-inference: messages in, bytes out."""

from __future__ import annotations

import struct
from typing import Any

from tfserving.foundation.messages import ClassificationResponse, ModelSpec, MultiInferenceResponse, RegressionResponse
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.example_messages import infer, infer_all, write_result
from tfserving.serving.embedded.core.examples import CLASSIFY, REGRESS, Classifications
from tfserving.serving.embedded.core.inference import acquire
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.grpc.responses import fill_spec, model_spec, read_spec
from tfserving.serving.embedded.grpc.tensor_proto import field


def classify_response(served: Served, request: Any) -> bytes:
    """Returns a ClassificationResponse to a ClassificationRequest."""
    response = ClassificationResponse()
    result = _run(served, request, CLASSIFY, response)
    assert isinstance(result, Classifications)
    if result.labels is None or all(_is_text(label) for label in result.labels.ravel().tolist()):
        return response.SerializeToString()  # type: ignore[no-any-return]
    return _with_raw_labels(result, response)


def regress_response(served: Served, request: Any) -> bytes:
    """Returns a RegressionResponse to a RegressionRequest."""
    response = RegressionResponse()
    _run(served, request, REGRESS, response)
    return response.SerializeToString()  # type: ignore[no-any-return]


def multi_inference_response(served: Served, request: Any) -> bytes:
    """Returns a MultiInferenceResponse to a MultiInferenceRequest: signatures of one model on the same examples."""
    first = request.tasks[0].model_spec if request.tasks else ModelSpec()
    with acquire(served, read_spec(first)) as servable:
        response = MultiInferenceResponse()
        for task, result in infer_all(servable, request):
            entry = response.results.add()
            fill_spec(entry.model_spec, servable.model, servable.version, task.signature.name)
            write_result(entry.classification_result if task.method == CLASSIFY else entry.regression_result, result)
        return response.SerializeToString()  # type: ignore[no-any-return]


def _run(served: Served, request: Any, method: str, response: Any) -> Classifications | Array:
    """Runs a request of one signature on tf.Examples and fills `response`; returns the result."""
    with acquire(served, model_spec(request)) as servable:
        signature, result = infer(servable, request, method)
        write_result(response.result, result)
        fill_spec(response.model_spec, servable.model, servable.version, signature.name)
        return result


def _with_raw_labels(result: Classifications, response: Any) -> bytes:
    """Returns the ClassificationResponse `response` with the labels of `result` unchanged, even if not UTF-8.

    TensorFlow Serving sends them like this. Protobuf in Python can't write or read such strings; other languages can.
    """
    rows = (
        b"".join(
            field(1, (field(1, label) if label else b"") + (b"\x15" + struct.pack("<f", score) if score else b""))
            for label, score in row
        )
        for row in result.rows()
    )
    return field(1, b"".join(field(1, row) for row in rows)) + field(2, response.model_spec.SerializeToString())


def _is_text(label: bytes) -> bool:
    try:
        label.decode()
    except UnicodeDecodeError:
        return False
    return True
