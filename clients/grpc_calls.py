"""The calls over gRPC: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tfserving.clients.call_options import DEFAULT_SIGNATURE, CallOptions
from tfserving.clients.calls import Calls, Task, classification
from tfserving.clients.errors import Internal, InvalidArgument, ResourceExhausted, from_code
from tfserving.clients.limits import MAX_RESPONSE_BYTES, RAISE_IT, description_bytes, structured_bytes
from tfserving.clients.results import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
    read_shape,
)
from tfserving.clients.steps import Retries, Steps
from tfserving.clients.wire import Bodies, TooLargeError, is_large, predict_request, read_predict_response, spec_of
from tfserving.foundation.examples import Examples
from tfserving.foundation.messages import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelServerConfig,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
    TensorProto,
)
from tfserving.foundation.tensors import BY_NUMBER, Array

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
REGRESS = "/tensorflow.serving.PredictionService/Regress"
MULTI_INFERENCE = "/tensorflow.serving.PredictionService/MultiInference"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

_METHODS: dict[Task, str] = {
    "classify": "tensorflow/serving/classify",
    "regress": "tensorflow/serving/regress",
}
_TYPE_NAMES = TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
_ERROR_CODES = GetModelStatusResponse.DESCRIPTOR.file.pool.FindEnumTypeByName("tensorflow.error.Code").values_by_number
_STATES = (
    GetModelStatusResponse.DESCRIPTOR.fields_by_name["model_version_status"]
    .message_type.enum_types_by_name["State"]
    .values_by_number
)


_DESCRIPTIONS = (GetModelMetadataResponse, GetModelStatusResponse, ReloadConfigResponse, SignatureDefMap)


class GrpcCalls(Calls):
    """The calls over gRPC."""

    protocol = "grpc"

    def __init__(
        self, server: str, retries: Retries, metadata: Mapping[str, str], largest: int = MAX_RESPONSE_BYTES
    ) -> None:
        super().__init__(server, retries, metadata, largest)
        self._bodies = Bodies()

    def reload_config(self, options: CallOptions, config: Any) -> Steps[None]:
        """See `tfserving.clients.client.Client.reload_config`."""
        request = ReloadConfigRequest(config=_config(options, config))
        data = yield from self._send(options, RELOAD, request.SerializeToString(), repeatable=False)
        status = self._read(ReloadConfigResponse, data, options).status
        if status.error_code:
            raise from_code(_code(status.error_code), status.error_message, options.call)

    def _predict(
        self, options: CallOptions, arrays: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> Steps[Prediction]:
        call = options.call
        parts = predict_request(call, arrays, outputs)
        if is_large(parts):
            with self._bodies.body(parts) as body:
                data = yield from self._send(options, PREDICT, body)
        else:
            data = yield from self._send(options, PREDICT, b"".join(parts))
        try:
            version, signature, decoded = read_predict_response(data, self._largest)
        except TooLargeError as error:
            raise ResourceExhausted(f"the response is too large: {error}", call, RAISE_IT) from None
        except (ValueError, OverflowError, MemoryError, DecodeError) as error:
            raise Internal(f"the response can't be read: {str(error) or type(error).__name__}", call) from None
        return Prediction(
            model=call.model,
            version=call.version if version is None else version,
            signature=signature or options.signature,
            outputs=decoded,
        )

    def _classify(self, options: CallOptions, examples: Examples) -> Steps[Classification]:
        request = ClassificationRequest(model_spec=spec_of(options.call))
        examples.write(request.input)
        data = yield from self._send(options, CLASSIFY, request.SerializeToString())
        response = self._read(ClassificationResponse, data, options)
        return _classified(options, response.model_spec, response.result)

    def _regress(self, options: CallOptions, examples: Examples) -> Steps[Regression]:
        request = RegressionRequest(model_spec=spec_of(options.call))
        examples.write(request.input)
        data = yield from self._send(options, REGRESS, request.SerializeToString())
        response = self._read(RegressionResponse, data, options)
        return _regressed(options, response.model_spec, response.result)

    def _multi_inference(
        self, options: CallOptions, tasks: Mapping[str, Task], examples: Examples
    ) -> Steps[dict[str, Classification | Regression]]:
        request = MultiInferenceRequest()
        for signature, task in tasks.items():
            added = request.tasks.add(method_name=_METHODS[task])
            added.model_spec.CopyFrom(spec_of(options.call))
            added.model_spec.signature_name = signature
        examples.write(request.input)
        data = yield from self._send(options, MULTI_INFERENCE, request.SerializeToString())
        results = self._read(MultiInferenceResponse, data, options).results
        if len(results) != len(tasks):
            raise Internal(f"the response has {len(results)} results, expected {len(tasks)}", options.call)
        found: dict[str, Classification | Regression] = {}
        for (signature, task), result in zip(tasks.items(), results, strict=True):
            if task == "classify":
                found[signature] = _classified(options, result.model_spec, result.classification_result, signature)
            else:
                found[signature] = _regressed(options, result.model_spec, result.regression_result, signature)
        return found

    def _get_metadata(self, options: CallOptions) -> Steps[Metadata]:
        request = GetModelMetadataRequest(model_spec=spec_of(options.call), metadata_field=["signature_def"])
        data = yield from self._send(options, METADATA, request.SerializeToString())
        response = self._read(GetModelMetadataResponse, data, options)
        definitions = self._read(SignatureDefMap, response.metadata["signature_def"].value, options).signature_def
        try:
            signatures = {name: _signature(definitions[name]) for name in definitions}
        except ValueError as error:
            raise Internal(f"the metadata can't be read: {error}", options.call) from None
        return Metadata(options.call.model, int(response.model_spec.version.value), signatures)

    def _get_status(self, options: CallOptions, received: dict[str, str]) -> Steps[list[VersionStatus]]:
        request = GetModelStatusRequest(model_spec=spec_of(options.call))
        data = yield from self._send(options, STATUS, request.SerializeToString(), received=received)
        return [
            VersionStatus(
                version=int(status.version),
                state=_STATES[status.state].name if status.state in _STATES else "UNKNOWN",
                code=_code(status.status.error_code),
                message=status.status.error_message,
            )
            for status in self._read(GetModelStatusResponse, data, options).model_version_status
        ]

    def _read(self, kind: Any, data: bytes, options: CallOptions) -> Any:
        """Return the message in `data`. It must be small, since its fields become objects of many times their bytes."""
        most = description_bytes(self._largest) if kind in _DESCRIPTIONS else structured_bytes(self._largest)
        if len(data) > most:
            text = f"the response is too large: its {kind.DESCRIPTOR.name} has {len(data)} bytes, the limit is {most}"
            raise ResourceExhausted(text, options.call, RAISE_IT)
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise Internal(f"the response can't be read: {error}", options.call) from None


def _config(options: CallOptions, config: Any) -> Any:
    """Return the ModelServerConfig in `config`, which is its text or a message."""
    if not isinstance(config, str):
        return ModelServerConfig.FromString(config.SerializeToString())
    try:
        return text_format.Parse(config, ModelServerConfig())
    except (text_format.ParseError, RecursionError) as error:
        raise InvalidArgument(f"the config is not a ModelServerConfig in text form: {error}", options.call) from None


def _code(number: int) -> str:
    return str(_ERROR_CODES[number].name) if number in _ERROR_CODES else "UNKNOWN"


def _classified(options: CallOptions, spec: Any, result: Any, signature: str | None = None) -> Classification:
    rows = [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]
    return classification(options.call, int(spec.version.value), rows, signature)


def _regressed(options: CallOptions, spec: Any, result: Any, signature: str | None = None) -> Regression:
    values = np.array([entry.value for entry in result.regressions], np.float32)
    return Regression(
        options.call.model, int(spec.version.value), signature or options.call.signature or DEFAULT_SIGNATURE, values
    )


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
        shape=None if shape.unknown_rank else read_shape([dim.size for dim in shape.dim]),
    )


def _type_name(number: int) -> str:
    """Return TensorFlow's name of a type that no tensor on the wire has, such as `resource`."""
    return _TYPE_NAMES[number].name.removeprefix("DT_").lower() if number in _TYPE_NAMES else f"type {number}"
