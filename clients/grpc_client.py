"""The gRPC client: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
import numpy as np

from clients.answers import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
)
from clients.client import DEFAULT_SIGNATURE, Client, classification, remaining_seconds
from clients.errors import Call, Internal, from_grpc
from clients.examples import Examples
from clients.messages import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    SignatureDefMap,
    TensorProto,
)
from clients.tensors import BY_NUMBER, Array, from_proto, to_proto

# The server takes messages of up to 2 GB; grpcio alone would refuse an answer above 4 MB.
# https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A client of its own connection: another's failed attempts would keep this one waiting.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that starts is seen soon; by default grpcio tries again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
_TYPE_NAMES = TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
_ERROR_CODES = GetModelStatusResponse.DESCRIPTOR.file.pool.FindEnumTypeByName("tensorflow.error.Code").values_by_number


class GrpcClient(Client):
    """Calls to the server at `address`, `HOST:PORT`, over gRPC."""

    protocol = "grpc"

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._ask_predict = self._method(_PREDICTION + "Predict", PredictRequest, PredictResponse)
        self._ask_classify = self._method(_PREDICTION + "Classify", ClassificationRequest, ClassificationResponse)
        self._ask_regress = self._method(_PREDICTION + "Regress", RegressionRequest, RegressionResponse)
        self._ask_metadata = self._method(
            _PREDICTION + "GetModelMetadata", GetModelMetadataRequest, GetModelMetadataResponse
        )
        self._ask_status = self._method(_MODEL + "GetModelStatus", GetModelStatusRequest, GetModelStatusResponse)

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._channel.close()

    def _predict(
        self, call: Call, arrays: Mapping[str, Array], outputs: tuple[str, ...], deadline: float
    ) -> Prediction:
        request = PredictRequest(model_spec=_spec(call), output_filter=outputs)
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(to_proto(array))
        answer = self._ask(self._ask_predict, request, call, deadline)
        spec = answer.model_spec
        try:
            decoded = {name: from_proto(answer.outputs[name]) for name in sorted(answer.outputs)}
        except ValueError as error:
            raise Internal(f"the answer can't be read: {error}", call) from None
        return Prediction(
            model=call.model,
            version=int(spec.version.value) if spec.HasField("version") else call.version,
            signature=spec.signature_name or call.signature or DEFAULT_SIGNATURE,
            outputs=decoded,
        )

    def _classify(self, call: Call, examples: Examples, deadline: float) -> Classification:
        request = ClassificationRequest(model_spec=_spec(call))
        examples.write(request.input)
        answer = self._ask(self._ask_classify, request, call, deadline)
        rows = [[(entry.label, entry.score) for entry in row.classes] for row in answer.result.classifications]
        return classification(call, int(answer.model_spec.version.value), rows)

    def _regress(self, call: Call, examples: Examples, deadline: float) -> Regression:
        request = RegressionRequest(model_spec=_spec(call))
        examples.write(request.input)
        answer = self._ask(self._ask_regress, request, call, deadline)
        values = np.array([entry.value for entry in answer.result.regressions], np.float32)
        return Regression(call.model, int(answer.model_spec.version.value), call.signature or DEFAULT_SIGNATURE, values)

    def _get_metadata(self, call: Call, deadline: float) -> Metadata:
        request = GetModelMetadataRequest(model_spec=_spec(replace(call, signature=None)))
        request.metadata_field.append("signature_def")
        answer = self._ask(self._ask_metadata, request, call, deadline)
        definitions = SignatureDefMap.FromString(answer.metadata["signature_def"].value).signature_def
        return Metadata(
            model=call.model,
            version=int(answer.model_spec.version.value),
            signatures={name: _signature(definitions[name]) for name in definitions},
        )

    def _get_status(self, call: Call, deadline: float) -> list[VersionStatus]:
        answer = self._ask(self._ask_status, GetModelStatusRequest(model_spec=_spec(call)), call, deadline)
        states = GetModelStatusResponse.DESCRIPTOR.fields_by_name["model_version_status"].message_type
        names = states.enum_types_by_name["State"].values_by_number
        return [
            VersionStatus(
                version=int(status.version),
                state=names[status.state].name if status.state in names else "UNKNOWN",
                code=_ERROR_CODES[status.status.error_code].name,
                message=status.status.error_message,
            )
            for status in answer.model_version_status
        ]

    def _method(self, path: str, request: Any, response: Any) -> Callable[..., Any]:
        return self._channel.unary_unary(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )

    def _ask(self, method: Callable[..., Any], request: Any, call: Call, deadline: float) -> Any:
        timeout = remaining_seconds(deadline, call)
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_grpc(error, call) from None


def _spec(call: Call) -> Any:
    spec = ModelSpec(name=call.model)
    if call.signature is not None:
        spec.signature_name = call.signature
    if call.version is not None:
        spec.version.value = call.version
    if call.label is not None:
        spec.version_label = call.label
    return spec


def _signature(definition: Any) -> Signature:
    return Signature(
        method=definition.method_name,
        inputs={name: _info(definition.inputs[name]) for name in sorted(definition.inputs)},
        outputs={name: _info(definition.outputs[name]) for name in sorted(definition.outputs)},
        optional=frozenset(definition.defaults),
    )


def _info(info: Any) -> TensorInfo:
    shape = info.tensor_shape
    return TensorInfo(
        dtype=BY_NUMBER[info.dtype].name if info.dtype in BY_NUMBER else _type_name(info.dtype),
        shape=None if shape.unknown_rank else tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim),
    )


def _type_name(number: int) -> str:
    """TensorFlow's own name for a type that no tensor on the wire has, such as `resource`."""
    return _TYPE_NAMES[number].name.removeprefix("DT_").lower() if number in _TYPE_NAMES else f"type {number}"
