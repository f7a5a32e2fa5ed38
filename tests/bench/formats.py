"""The request format of each kind of server for the same prediction: path, headers and body, and the response."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx2
import numpy as np

from tests.bench.saved_models import Model
from tfserving.clients.grpc_calls import PREDICT
from tfserving.foundation.messages import PredictRequest, PredictResponse
from tfserving.foundation.tensors import Array, from_proto, to_proto

JSON = ("content-type: application/json",)


@dataclass(frozen=True)
class Format:
    """A request of one kind; `path` and `body` are of a model's row, `read` is the result in a response's body."""

    path: Callable[[Model], str]
    body: Callable[[Model], bytes]
    read: Callable[[bytes], Any]
    headers: tuple[str, ...] = JSON
    grpc: bool = False

    def send(self, port: int, model: Model) -> Array:
        """The result that a server returns; raises the client library's errors."""
        if self.grpc:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call: Any = channel.unary_unary(self.path(model))
                return np.asarray(self.read(call(request(model), timeout=60)))
        response = httpx2.post(
            f"http://127.0.0.1:{port}{self.path(model)}",
            content=self.body(model),
            headers=dict(header.split(": ") for header in self.headers),
            timeout=60,
            trust_env=False,
        )
        response.raise_for_status()
        return np.asarray(self.read(response.content))


def request(model: Model) -> bytes:
    """A PredictRequest."""
    message = PredictRequest()
    message.model_spec.name = model.name
    message.inputs["x"].CopyFrom(to_proto(model.values))
    return bytes(message.SerializeToString())


def _frame(message: bytes) -> bytes:
    """As https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md has it: not compressed, and how long."""
    return struct.pack(">BI", 0, len(message)) + message


def _rows(model: Model, key: str) -> bytes:
    return json.dumps({key: model.values.tolist()}).encode()


def _open_inference(model: Model) -> bytes:
    """https://github.com/kserve/open-inference-protocol."""
    values = {"name": "x", "shape": model.values.shape, "datatype": "FP32", "data": model.values.ravel().tolist()}
    return json.dumps({"inputs": [values]}).encode()


def _open_inference_result(body: bytes) -> Array:
    (output,) = json.loads(body)["outputs"]
    return np.reshape(np.array(output["data"], np.float32), output["shape"])


GRPC = Format(
    lambda _: PREDICT,
    lambda model: _frame(request(model)),
    lambda body: from_proto(PredictResponse.FromString(body).outputs["y"]),
    ("content-type: application/grpc", "te: trailers"),
    grpc=True,
)
REST = Format(
    lambda model: f"/v1/models/{model.name}:predict",
    lambda model: _rows(model, "instances"),
    lambda body: json.loads(body)["predictions"],
)
FASTAPI = Format(lambda _: "/predict", REST.body, REST.read)
MLSERVER = Format(lambda model: f"/v2/models/{model.name}/infer", _open_inference, _open_inference_result)
BENTOML = Format(lambda _: "/predict", lambda model: _rows(model, "x"), json.loads)
