"""The gRPC face: TensorFlow Serving's services over the core.

`methods` are functions from bytes to bytes, which know nothing of what carries them; `GrpcTransport` carries them over
grpcio.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

import grpc
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
from tfserving.serving.embedded.core.configuration import Reloadable
from tfserving.serving.embedded.core.pool import EagerPool, Pool
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.errors import Code, RequestError, StartError
from tfserving.serving.embedded.grpc import reflection
from tfserving.serving.embedded.grpc.answers import (
    answer_health,
    answer_metadata,
    answer_predict,
    answer_reload,
    answer_status,
)
from tfserving.serving.embedded.grpc.examples import answer_classify, answer_multi_inference, answer_regress
from tfserving.serving.embedded.grpc.reflection import Reflection
from tfserving.serving.embedded.observability.access_log import AccessLog
from tfserving.serving.embedded.observability.metrics import UNKNOWN, count_answer, count_failure
from tfserving.serving.embedded.observability.request_log import RequestLog
from tfserving.serving.embedded.tls import Tls

log = logging.getLogger(__name__)

PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"
HEALTH = "/grpc.health.v1.Health/Check"
LONGEST_DETAILS = 1024
# A drain holds answers back until for so many ticks nothing came, and at most so long.
TICK_SECONDS, QUIET_TICKS, LONGEST_HOLD_SECONDS = 0.01, 10, 1.0

# A method takes a request's bytes and returns the answer's; it raises RequestError.
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
) -> Methods:
    """Every method that is served, by its full name.

    `explain` is for the errors in a status, `tensor_content` for predict's answers; `health` adds the health service.
    """
    inference: dict[str, tuple[Any, Callable[[Any], bytes]]] = {
        "Predict": (PredictRequest, partial(answer_predict, served, tensor_content=tensor_content)),
        "Classify": (ClassificationRequest, partial(answer_classify, served)),
        "Regress": (RegressionRequest, partial(answer_regress, served)),
        "MultiInference": (MultiInferenceRequest, partial(answer_multi_inference, served)),
    }
    counted = {api: _counted(served, api, *one) for api, one in inference.items()}
    if request_log is not None:
        counted = {api: _logged(one, _LOGS[api], request_log) for api, one in counted.items()}
    return {
        **{f"/{PREDICTION}/{api}": one for api, one in counted.items()},
        f"/{PREDICTION}/GetModelMetadata": _method(GetModelMetadataRequest, partial(answer_metadata, served)),
        f"/{MODEL}/GetModelStatus": _method(GetModelStatusRequest, partial(answer_status, served, explain=explain)),
        f"/{MODEL}/HandleReloadConfigRequest": _method(ReloadConfigRequest, partial(answer_reload, configuration)),
        **({HEALTH: _method(StringValue, answer_health)} if health else {}),
    }


def _method(request_class: Any, answer: Callable[[Any], bytes]) -> Method:
    def call(data: bytes) -> bytes:
        return answer(_parse(request_class, data))

    return call


def _parse(request_class: Any, data: bytes) -> Any:
    try:
        return request_class.FromString(data)
    except DecodeError:
        raise RequestError(Code.INTERNAL, "") from None


# The part of a PredictionLog for each method.
_LOGS = {
    "Predict": "predict_log",
    "Classify": "classify_log",
    "Regress": "regress_log",
    "MultiInference": "multi_inference_log",
}


def _logged(method: Method, part: str, request_log: RequestLog) -> Method:
    def call(data: bytes) -> bytes:
        answered = method(data)
        if request_log.wants():

            def fill(record: Any) -> None:
                getattr(record, part).request.MergeFromString(data)
                getattr(record, part).response.MergeFromString(answered)

            request_log.note(fill, len(data) + len(answered))
        return answered

    return call


def _counted(served: Served, api: str, request_class: Any, answer: Callable[[Any], bytes]) -> Method:
    model_of = _model_of_tasks if api == "MultiInference" else _model_of

    def call(data: bytes) -> bytes:
        request = _parse(request_class, data)
        started = monotonic()
        try:
            answered = answer(request)
        except RequestError as error:
            name = model_of(request)
            count_failure(name if served.view.knows(name) else UNKNOWN, error)
            raise
        count_answer(model_of(request), api, "GRPC", started)
        return answered

    return call


def _model_of(request: Any) -> str:
    return request.model_spec.name  # type: ignore[no-any-return]


def _model_of_tasks(request: Any) -> str:
    return request.tasks[0].model_spec.name if request.tasks else ""


class GrpcTransport:
    """Methods over grpcio, in a pool of `threads` handler threads."""

    def __init__(
        self,
        answers: Methods,
        host: str,
        port: int,
        threads: int,
        *,
        eager: bool = False,
        explain: bool = True,
        most_in_flight: int = 0,
        largest_message: int = 0,
        tls: Tls | None = None,
        socket_path: str = "",
        settings: Mapping[str, str] | None = None,
        shared: bool = False,
        access_log: AccessLog | None = None,
    ) -> None:
        """Requests that are batched wait for each other, which needs an `eager` pool.

        Beyond `most_in_flight` requests, and `largest_message` bytes, gRPC refuses requests; 0 is no limit.

        It listens on the UNIX socket `socket_path`, too; `settings` are gRPC's own, by their names. With `shared`
        other processes may listen on the same port, and each connection is one's.
        """
        self._open = threading.Event()
        self._open.set()
        self._stopped = threading.Event()
        self._reflection = Reflection(PREDICTION, MODEL)
        self._handlers = handlers = _Handlers(answers, self._open, explain=explain, access_log=access_log)
        handlers.add(reflection.METHOD, self._reflection.handler())
        self._server = grpc.server(
            # Any executor will do, whatever the type says.
            (EagerPool if eager else Pool)(threads, "grpc"),  # type: ignore[arg-type]
            handlers=[handlers],
            options=(
                ("grpc.max_receive_message_length", largest_message or -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(shared)),
                *((key, int(value) if value.isdecimal() else value) for key, value in (settings or {}).items()),
            ),
            maximum_concurrent_rpcs=most_in_flight or None,
        )
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls:
                bound = self._server.add_secure_port(where, _credentials(tls))
            else:
                bound = self._server.add_insecure_port(where)
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartError(f"--port={port}: gRPC can't listen on {host}:{port}")
        if socket_path:
            self._listen_on_socket(socket_path)

    def _listen_on_socket(self, path: str) -> None:
        try:
            bound = self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartError(f"--grpc_socket_path={path}: gRPC can't listen there")

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def hold(self) -> None:
        """Has handlers pause until `finish`, and returns when no more requests come.

        `refuse` cancels what gRPC reads from then on. Clients that wait for an answer send no others, those that just
        had one may be about to. A tick that comes late says that the machine is busy, and that they may be late, too.
        """
        self._open.clear()
        quiet, seen, until = 0, -1, monotonic() + LONGEST_HOLD_SECONDS
        while quiet < QUIET_TICKS and (now := monotonic()) < until:
            time.sleep(TICK_SECONDS)
            late = monotonic() - now > 2 * TICK_SECONDS
            quiet = 0 if late or self._handlers.asked != seen else quiet + 1
            seen = self._handlers.asked

    def refuse(self, grace: float) -> None:
        """Closes the door; requests in flight are cancelled when `grace` seconds are over."""
        self._stopped = self._server.stop(grace)

    def finish(self, grace: float) -> None:  # noqa: ARG002 - `refuse` was told
        """Returns when requests in flight are answered, or cancelled."""
        self._reflection.end()
        self._open.set()
        self._stopped.wait()


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.encode(), tls.certificate.encode())],
        root_certificates=tls.ca.encode() or None,
        require_client_auth=tls.verify_clients,
    )


class _Handlers(grpc.GenericRpcHandler):
    def __init__(
        self, answers: Methods, opened: threading.Event, *, explain: bool, access_log: AccessLog | None
    ) -> None:
        handlers = {
            name: _handler(answer, opened, explain=explain) for name, answer in {**answers, "": _unknown}.items()
        }
        if access_log:
            handlers = {name: _with_access_log(name, handler, access_log) for name, handler in handlers.items()}
        self._unknown = handlers.pop("")
        self._handlers = handlers
        # How many requests were handed over, by the one thread that does.
        self.asked = 0

    def add(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        """Adds a method that is no function of bytes."""
        self._handlers[name] = handler

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        self.asked += 1
        return self._handlers.get(details.method) or self._unknown


def _handler(answer: Method, opened: threading.Event, *, explain: bool) -> grpc.RpcMethodHandler[bytes, bytes]:
    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        opened.wait()
        try:
            return answer(data)
        except RequestError as error:
            code, details = error.code, error.say(explain=explain)
        except Exception as error:
            log.exception("a gRPC request failed")
            code, details = Code.INTERNAL, f"{type(error).__name__}: {error}"
        if len(details) > LONGEST_DETAILS:
            details = details[:LONGEST_DETAILS] + "...TRUNCATED"
        context.set_code(_STATUS[code])
        context.set_details(details)
        return b""

    return grpc.unary_unary_rpc_method_handler(handle)


def _with_access_log(
    method: str, handler: grpc.RpcMethodHandler[bytes, bytes], access_log: AccessLog
) -> grpc.RpcMethodHandler[bytes, bytes]:
    handle = handler.unary_unary
    assert handle is not None

    # The type says less than there is.
    def logged(data: bytes, context: Any) -> bytes:
        began = access_log.begin()
        answered = handle(data, context)
        access_log.write(
            began,
            "grpc",
            method=method or "unknown",
            client=context.peer(),
            status=(context.code() or grpc.StatusCode.OK).name,
            request_bytes=len(data),
            response_bytes=len(answered),
        )
        return answered

    return grpc.unary_unary_rpc_method_handler(logged)


_STATUS = {Code(status.value[0]): status for status in grpc.StatusCode if status is not grpc.StatusCode.OK}


def _unknown(_data: bytes) -> bytes:
    # grpcio has words for this; TensorFlow Serving has none.
    raise RequestError(Code.UNIMPLEMENTED, "", "this server has no such method")
