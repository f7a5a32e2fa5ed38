"""The gRPC face: TensorFlow Serving's services on top of the core.

`methods` are functions from bytes to bytes, independent of the transport: `over_native` or `over_grpcio`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue

from tfserving.foundation.messages import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
)
from tfserving.foundation.tensors import LARGEST_DECLARED
from tfserving.serving.embedded.core.configuration import Reloadable
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.grpc import large_tensors
from tfserving.serving.embedded.grpc.examples import classify_response, multi_inference_response, regress_response
from tfserving.serving.embedded.grpc.parts import check_parts, kind_of
from tfserving.serving.embedded.grpc.responses import (
    Reload,
    health_response,
    metadata_response,
    predict_response,
    reload_response,
    status_response,
)
from tfserving.serving.embedded.observability.metrics import UNKNOWN, count_failure, count_success
from tfserving.serving.embedded.observability.request_log import RequestLog

PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"
HEALTH = "/grpc.health.v1.Health/Check"
PREDICTIONS = frozenset(f"/{PREDICTION}/{api}" for api in ("Predict", "Classify", "Regress", "MultiInference"))
RELOAD = f"/{MODEL}/HandleReloadConfigRequest"
# The methods that describe a model. Their responses name the server's device.
DESCRIPTIONS = frozenset({f"/{PREDICTION}/GetModelMetadata", f"/{MODEL}/GetModelStatus"})

# A method takes the bytes of a request and returns those of the response. It raises RequestError.
Method = Callable[[bytes], bytes]
Methods = dict[str, Method]


def methods(
    served: Served,
    configuration: Reloadable,
    *,
    explain: bool = True,
    tensor_content: bool = False,
    health: bool = False,
    request_log: RequestLog | None = None,
    largest: int = LARGEST_DECLARED,
    most_parts: int = 0,
    reload: Reload | None = None,
) -> Methods:
    """Returns all methods, by full name.

    `explain` adds explanations to the errors of a status. `tensor_content` is the format of predict outputs. `health`
    adds the health service. A tensor can declare at most `largest` bytes, and a message can have `most_parts`; 0 is no
    limit. `reload` limits changes of the configuration.
    """
    predict = partial(predict_response, served, tensor_content=tensor_content, largest=largest, most_strings=most_parts)
    inference: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
        "Predict": (PredictRequest, predict),
        "Classify": (ClassificationRequest, partial(classify_response, served)),
        "Regress": (RegressionRequest, partial(regress_response, served)),
        "MultiInference": (MultiInferenceRequest, partial(multi_inference_response, served)),
    }
    others: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
        f"/{PREDICTION}/GetModelMetadata": (GetModelMetadataRequest, partial(metadata_response, served)),
        f"/{MODEL}/GetModelStatus": (GetModelStatusRequest, partial(status_response, served, explain=explain)),
        RELOAD: (ReloadConfigRequest, partial(reload_response, configuration, reload or Reload())),
        **({HEALTH: (StringValue, health_response)} if health else {}),
    }
    counted = {api: _counted(served, api, *one, most_parts) for api, one in inference.items()}
    if request_log is not None:
        counted = {api: _logged(one, _LOGS[api], request_log) for api, one in counted.items()}
    return {
        **{f"/{PREDICTION}/{api}": one for api, one in counted.items()},
        **{name: _method(*one, most_parts) for name, one in others.items()},
    }


def _method(request_class: Any, respond: Callable[[Any], bytes], most_parts: int) -> Method:
    parse = _parser(request_class, most_parts)

    def call(data: bytes) -> bytes:
        return respond(parse(data))

    return call


def _parser(request_class: Any, most_parts: int) -> Callable[[bytes], Any]:
    """Returns a function that parses a request. It raises RequestError for invalid bytes, and for too many parts."""
    kind = kind_of(request_class.DESCRIPTOR)
    read = large_tensors.parse if request_class is PredictRequest else request_class.FromString

    def parse(data: bytes) -> Any:
        check_parts(data, kind, most_parts)
        try:
            return read(data)
        except DecodeError:
            raise RequestError(Code.INTERNAL, "") from None

    return parse


# The part of a PredictionLog for each method.
_LOGS = {
    "Predict": "predict_log",
    "Classify": "classify_log",
    "Regress": "regress_log",
    "MultiInference": "multi_inference_log",
}


def _logged(method: Method, part: str, request_log: RequestLog) -> Method:
    def call(data: bytes) -> bytes:
        response = method(data)
        if request_log.wants():

            def fill(record: Any) -> None:
                getattr(record, part).request.MergeFromString(data)
                getattr(record, part).response.MergeFromString(response)

            request_log.note(fill, len(data) + len(response))
        return response

    return call


def _counted(served: Served, api: str, request_class: Any, respond: Callable[[Any], bytes], most_parts: int) -> Method:
    model_of = _model_of_tasks if api == "MultiInference" else _model_of
    parse = _parser(request_class, most_parts)

    def call(data: bytes) -> bytes:
        request = parse(data)
        started = monotonic()
        try:
            response = respond(request)
        except RequestError as error:
            name = model_of(request)
            count_failure(name if served.view.has_model(name) else UNKNOWN, error)
            raise
        count_success(model_of(request), api, "GRPC", started)
        return response

    return call


def _model_of(request: Any) -> str:
    return request.model_spec.name  # type: ignore[no-any-return]


def _model_of_tasks(request: Any) -> str:
    return request.tasks[0].model_spec.name if request.tasks else ""
