"""The calls as gRPC carries them: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tfserving.clients.answers import (
    Classification,
    Metadata,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
    read_shape,
)
from tfserving.clients.asked import DEFAULT_SIGNATURE, Asked
from tfserving.clients.calls import Calls, Task, classification
from tfserving.clients.errors import Internal, InvalidArgument, ResourceExhausted, from_code
from tfserving.clients.limits import MAX_RESPONSE_BYTES, RAISE_IT, description_bytes, structured_bytes
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

    def reload_config(self, asked: Asked, config: Any) -> Steps[None]:
        """See `tfserving.clients.client.Client.reload_config`."""
        request = ReloadConfigRequest(config=_config(asked, config))
        data = yield from self._ask(asked, RELOAD, request.SerializeToString(), repeatable=False)
        status = self._read(ReloadConfigResponse, data, asked).status
        if status.error_code:
            raise from_code(_code(status.error_code), status.error_message, asked.call)

    def _predict(self, asked: Asked, arrays: Mapping[str, Array], outputs: tuple[str, ...]) -> Steps[Prediction]:
        call = asked.call
        parts = predict_request(call, arrays, outputs)
        if is_large(parts):
            with self._bodies.body(parts) as body:
                data = yield from self._ask(asked, PREDICT, body)
        else:
            data = yield from self._ask(asked, PREDICT, b"".join(parts))
        try:
            version, signature, decoded = read_predict_response(data, self._largest)
        except TooLargeError as error:
            raise ResourceExhausted(f"the response is too large: {error}", call, RAISE_IT) from None
        except (ValueError, OverflowError, MemoryError, DecodeError) as error:
            raise Internal(f"the answer can't be read: {str(error) or type(error).__name__}", call) from None
        return Prediction(
            model=call.model,
            version=call.version if version is None else version,
            signature=signature or asked.signature,
            outputs=decoded,
        )

    def _classify(self, asked: Asked, examples: Examples) -> Steps[Classification]:
        request = ClassificationRequest(model_spec=spec_of(asked.call))
        examples.write(request.input)
        data = yield from self._ask(asked, CLASSIFY, request.SerializeToString())
        answer = self._read(ClassificationResponse, data, asked)
        return _classified(asked, answer.model_spec, answer.result)

    def _regress(self, asked: Asked, examples: Examples) -> Steps[Regression]:
        request = RegressionRequest(model_spec=spec_of(asked.call))
        examples.write(request.input)
        data = yield from self._ask(asked, REGRESS, request.SerializeToString())
        answer = self._read(RegressionResponse, data, asked)
        return _regressed(asked, answer.model_spec, answer.result)

    def _multi_inference(
        self, asked: Asked, tasks: Mapping[str, Task], examples: Examples
    ) -> Steps[dict[str, Classification | Regression]]:
        request = MultiInferenceRequest()
        for signature, task in tasks.items():
            added = request.tasks.add(method_name=_METHODS[task])
            added.model_spec.CopyFrom(spec_of(asked.call))
            added.model_spec.signature_name = signature
        examples.write(request.input)
        data = yield from self._ask(asked, MULTI_INFERENCE, request.SerializeToString())
        results = self._read(MultiInferenceResponse, data, asked).results
        if len(results) != len(tasks):
            raise Internal(f"{len(tasks)} signatures were asked, {len(results)} answered", asked.call)
        answers: dict[str, Classification | Regression] = {}
        for (signature, task), result in zip(tasks.items(), results, strict=True):
            if task == "classify":
                answers[signature] = _classified(asked, result.model_spec, result.classification_result, signature)
            else:
                answers[signature] = _regressed(asked, result.model_spec, result.regression_result, signature)
        return answers

    def _get_metadata(self, asked: Asked) -> Steps[Metadata]:
        request = GetModelMetadataRequest(model_spec=spec_of(asked.call), metadata_field=["signature_def"])
        data = yield from self._ask(asked, METADATA, request.SerializeToString())
        answer = self._read(GetModelMetadataResponse, data, asked)
        definitions = self._read(SignatureDefMap, answer.metadata["signature_def"].value, asked).signature_def
        try:
            signatures = {name: _signature(definitions[name]) for name in definitions}
        except ValueError as error:
            raise Internal(f"the metadata can't be read: {error}", asked.call) from None
        return Metadata(asked.call.model, int(answer.model_spec.version.value), signatures)

    def _get_status(self, asked: Asked) -> Steps[list[VersionStatus]]:
        request = GetModelStatusRequest(model_spec=spec_of(asked.call))
        data = yield from self._ask(asked, STATUS, request.SerializeToString())
        return [
            VersionStatus(
                version=int(status.version),
                state=_STATES[status.state].name if status.state in _STATES else "UNKNOWN",
                code=_code(status.status.error_code),
                message=status.status.error_message,
            )
            for status in self._read(GetModelStatusResponse, data, asked).model_version_status
        ]

    def _read(self, kind: Any, data: bytes, asked: Asked) -> Any:
        """The message in `data`. Its fields become objects of many times their bytes, so it must be small."""
        most = description_bytes(self._largest) if kind in _DESCRIPTIONS else structured_bytes(self._largest)
        if len(data) > most:
            text = f"the response is too large: its {kind.DESCRIPTOR.name} has {len(data)} bytes, the limit is {most}"
            raise ResourceExhausted(text, asked.call, RAISE_IT)
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise Internal(f"the answer can't be read: {error}", asked.call) from None


def _config(asked: Asked, config: Any) -> Any:
    """The ModelServerConfig that a caller hands in: its text, or a message."""
    if not isinstance(config, str):
        return ModelServerConfig.FromString(config.SerializeToString())
    try:
        return text_format.Parse(config, ModelServerConfig())
    except (text_format.ParseError, RecursionError) as error:
        raise InvalidArgument(f"the config is no ModelServerConfig in text form: {error}", asked.call) from None


def _code(number: int) -> str:
    return str(_ERROR_CODES[number].name) if number in _ERROR_CODES else "UNKNOWN"


def _classified(asked: Asked, spec: Any, result: Any, signature: str | None = None) -> Classification:
    rows = [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]
    return classification(asked.call, int(spec.version.value), rows, signature)


def _regressed(asked: Asked, spec: Any, result: Any, signature: str | None = None) -> Regression:
    values = np.array([entry.value for entry in result.regressions], np.float32)
    return Regression(
        asked.call.model, int(spec.version.value), signature or asked.call.signature or DEFAULT_SIGNATURE, values
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
    """TensorFlow's own name for a type that no tensor on the wire has, such as `resource`."""
    return _TYPE_NAMES[number].name.removeprefix("DT_").lower() if number in _TYPE_NAMES else f"type {number}"
