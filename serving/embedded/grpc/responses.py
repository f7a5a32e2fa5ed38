"""The responses of the gRPC methods for predict, metadata, status, reload and health: messages in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.wrappers_pb2 import Int32Value

from tfserving.foundation.messages import GetModelMetadataResponse, GetModelStatusResponse, ReloadConfigResponse
from tfserving.foundation.tensors import LARGEST_DECLARED, Array, read_flat
from tfserving.serving.embedded.core.configuration import Reloadable
from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.core.deep import shaped
from tfserving.serving.embedded.core.inference import ModelSpec, acquire, predict
from tfserving.serving.embedded.core.model_config import Model, models_of
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.core.signature import DEFAULT_SIGNATURE
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.grpc.large_tensors import Cut
from tfserving.serving.embedded.grpc.parts import packed_strings, too_many
from tfserving.serving.embedded.grpc.tensor_proto import write_response

METADATA_FIELD = "signature_def"


def predict_response(
    served: Served,
    request: Any,
    *,
    tensor_content: bool = False,
    largest: int = LARGEST_DECLARED,
    most_strings: int = 0,
) -> bytes:
    """Returns a PredictResponse to a PredictRequest or LargeRequest, with tensors in typed fields or `tensor_content`.

    An input can declare at most `largest` bytes. All together can have `most_strings` in `tensor_content`; 0: no limit.
    """
    spec = request.model_spec
    latest = spec.name and spec.WhichOneof("version_choice") is None
    with served.handle(spec.name) if latest else acquire(served, model_spec(request)) as servable:
        name = spec.signature_name or DEFAULT_SIGNATURE
        signature = servable.signatures.get(name)
        if signature is None:
            raise RequestError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.', servable.has_signatures()
            )

        packed = 0

        def decode(proto: Any) -> Array:
            nonlocal packed
            if type(proto) is Cut:
                return _decode(*proto, largest=largest)
            packed += packed_strings(proto)
            if packed > most_strings > 0:
                raise too_many()
            return _decode(proto, largest=largest)

        outputs = predict(servable, signature, request.inputs, decode, request.output_filter)
        return write_response(servable.model, servable.version, name, outputs, content=tensor_content)


def metadata_response(served: Served, request: Any) -> bytes:
    """Returns a GetModelMetadataResponse to a GetModelMetadataRequest."""
    if not request.HasField("model_spec"):
        raise RequestError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    if not request.metadata_field:
        raise RequestError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != METADATA_FIELD:
            raise RequestError(Code.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
    with acquire(served, model_spec(request)) as servable:
        response = GetModelMetadataResponse()
        fill_spec(response.model_spec, servable.model, servable.version)
        response.metadata[METADATA_FIELD].Pack(servable.definitions)
        return _bytes(response)


def status_response(served: Served, request: Any, *, explain: bool) -> bytes:
    """Returns a GetModelStatusResponse to a GetModelStatusRequest. It ignores the label, as TensorFlow Serving does."""
    if not request.HasField("model_spec"):
        raise RequestError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    spec = request.model_spec
    response = GetModelStatusResponse()
    for status in served.view.statuses(spec.name, spec.version.value if spec.HasField("version") else None):
        entry = response.model_version_status.add(version=status.version, state=status.state)
        entry.status.SetInParent()
        if status.error is not None:
            entry.status.error_code = int(status.error.code)
            entry.status.error_message = status.error.client_text(explain=explain)
    return _bytes(response)


@dataclass(frozen=True)
class Reload:
    """Whether clients can change the configuration, and the folders that base paths must be in; empty: any."""

    enabled: bool = True
    folders: tuple[Path, ...] = ()

    def check(self, models: Sequence[Model]) -> None:
        """Raises RequestError PERMISSION_DENIED for a base path outside the folders, also through links."""
        folders = [folder.resolve() for folder in self.folders]
        for model in models:
            path = model.base_path.resolve()
            if folders and not any(path.is_relative_to(folder) for folder in folders):
                text = f"base path {model.base_path} of model {model.name} is not allowed"
                raise RequestError(Code.PERMISSION_DENIED, text, "--reload_base_paths lists the allowed folders")


def reload_response(configuration: Reloadable, reload: Reload, request: Any) -> bytes:
    """Applies a ReloadConfigRequest and returns a ReloadConfigResponse. Errors are errors of the call."""
    if not reload.enabled:
        text = "HandleReloadConfigRequest is turned off"
        raise RequestError(Code.PERMISSION_DENIED, text, "--enable_reload_config=true turns it on")
    if request.config.WhichOneof("config") != "model_config_list":
        text = (
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
            "supported"
        )
        raise RequestError(Code.INVALID_ARGUMENT, text)
    models = models_of(request.config.model_config_list, configuration.names)
    reload.check(models)
    configuration.apply(models, deadline.left())
    response = ReloadConfigResponse()
    response.status.SetInParent()
    for name in sorted(set(request.metric_names)):
        # TensorFlow Serving counts nothing either.
        response.metric.add(name=name).int64_value_increase = 0
    return _bytes(response)


def health_response(request: Any) -> bytes:
    """Returns a HealthCheckResponse to a HealthCheckRequest: SERVING for the server as a whole, the only service.

    https://github.com/grpc/grpc/blob/master/doc/health-checking.md. On the wire its two messages, with a string and an
    enum, equal these wrappers.
    """
    if request.value:
        raise RequestError(Code.NOT_FOUND, "service name unknown")
    return _bytes(Int32Value(value=1))


def model_spec(request: Any) -> ModelSpec:
    """Returns the model and version of `request`. Raises RequestError INVALID_ARGUMENT without a ModelSpec."""
    if not request.HasField("model_spec"):
        raise RequestError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    return read_spec(request.model_spec)


def read_spec(spec: Any) -> ModelSpec:
    """Returns the model and version of a ModelSpec message."""
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return ModelSpec(spec.name, version=spec.version.value)
    if choice == "version_label":
        return ModelSpec(spec.name, label=spec.version_label)
    return ModelSpec(spec.name)


def fill_spec(spec: Any, name: str, version: int, signature: str = "") -> None:
    """Fills the ModelSpec message `spec` of a response."""
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature


def _bytes(message: Any) -> bytes:
    written: bytes = message.SerializeToString()
    return written


def _decode(proto: Any, content: memoryview | None = None, *, largest: int) -> Array:
    try:
        flat, shape = read_flat(proto, largest, content)
    except ValueError:
        if not proto.tensor_shape.unknown_rank:
            raise
        # TensorFlow Serving reads a tensor of unknown rank as a scalar.
        proto.tensor_shape.Clear()
        flat, shape = read_flat(proto, largest, content)
    array: Array = shaped(flat, shape)
    return array
