"""The REST face: TensorFlow Serving's URLs on top of the core, from a request to a response.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import enum
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

from tfserving.foundation.devices import DEVICE_HEADER, Device
from tfserving.foundation.manifest import MANIFEST_HEADER
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.examples import CLASSIFY, REGRESS, Classifications, find_signature, make_task, run
from tfserving.serving.embedded.core.inference import ModelSpec, acquire, predict
from tfserving.serving.embedded.core.loader import Servable
from tfserving.serving.embedded.core.pace import Pace
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.core.session_call import computed
from tfserving.serving.embedded.core.signature import Signature
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.request_log import RequestLog
from tfserving.serving.embedded.rest import responses
from tfserving.serving.embedded.rest.examples_request import read_examples
from tfserving.serving.embedded.rest.http import TEXT, RefusedError, Request, Response, page, unpacked
from tfserving.serving.embedded.rest.json_parser import parse
from tfserving.serving.embedded.rest.plain_predict import Plain, read_plain
from tfserving.serving.embedded.rest.predict_request import complete_empty, read_inputs, signature_name
from tfserving.serving.embedded.rest.records import log_examples, log_predict, size_of, size_of_examples
from tfserving.serving.embedded.rest.urls import (
    LISTING,
    LIVE,
    OURS,
    PROBE,
    STATUS,
    URI,
    Inference,
    inference,
    model_spec,
    unescape,
)

log = logging.getLogger(__name__)

_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
# The largest request and the largest response, in bytes, that are read and written in negligible time.
_SMALL, _SMALL_RESPONSE = 2**12, 2**13
# Up to this size the general parser is faster than the one for many numbers.
_FEW_NUMBERS = 2**11

_HTTP = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}


class Place(enum.Enum):
    """Where a request runs, so that probes, status and metrics never wait for predictions."""

    HERE = "in the event loop"
    PREDICTIONS = "in the pool of threads, or in the event loop when it is short"
    BESIDE = "in threads without predictions"
    METRICS = "in a thread that may wait for other processes"


class LongError(Exception):
    """The prediction isn't known to be short."""


class RestFace:
    """Responds to HTTP requests."""

    def __init__(
        self,
        served: Served,
        *,
        wanted: Callable[[], Collection[str]],
        explain: bool = True,
        metrics_path: bytes | None = None,
        metrics_page: Callable[[], bytes] = metrics.page,
        list_models: bool = False,
        request_log: RequestLog | None = None,
        largest_body: int = 0,
        most_values: int = 0,
        most_nested: int = 0,
        device: Device | None = None,
    ) -> None:
        """`wanted` returns the models that readiness requires, or raises RequestError when the server is not ready.

        `explain` adds explanations to errors. `metrics_page` is served at `metrics_path`, for Prometheus. With
        `list_models` GET /v1/models lists the models. A body is refused if it inflates to more than `largest_body`
        bytes, has more than `most_values` values, or nests a tensor in more than `most_nested` arrays; 0 is no limit.
        Status and metadata name the `device`, unless it is None.
        """
        self._served = served
        self._wanted = wanted
        self._explain = explain
        self._metrics_path = metrics_path
        self._page = metrics_page
        self._list_models = list_models
        self._request_log = request_log
        self._largest_body = largest_body
        self._most_values = most_values
        self._most_nested = most_nested
        self._headers = f"{DEVICE_HEADER}: {device}\r\n".encode() if device is not None else b""

    def place(self, request: Request) -> Place:
        """Returns where `request` should run."""
        if request.method == "POST":
            return Place.PREDICTIONS
        path = request.target
        if path == LIVE:
            return Place.HERE
        if self._metrics_path and path.startswith(self._metrics_path):
            return Place.METRICS
        match = STATUS.fullmatch(path)
        # Writing the signatures of a version may take as long as a prediction.
        return Place.PREDICTIONS if match and match["metadata"] else Place.BESIDE

    def may_be_short(self, request: Request) -> bool:
        """Returns whether `request` is a small predict request, which may be short."""
        path = request.target
        return (
            len(request.body) <= _SMALL
            and request.method == "POST"
            and (wanted := inference(path)) is not None
            and wanted.verb == "predict"
            and b"content-encoding" not in request.headers
            and not self._is_metrics(path)
        )

    def respond(self, request: Request, *, only_short: bool = False) -> Response:
        """Returns the response to `request`. With `only_short` it raises LongError unless the request is short."""
        try:
            return self._route(request, only_short=only_short)
        except LongError:
            raise
        except RefusedError as refusal:
            return responses.refusal(refusal)
        except RequestError as error:
            return Response(_HTTP.get(error.code, 500), responses.error(error.client_text(explain=self._explain)))
        except Exception as error:
            log.exception("a REST request failed")
            return Response(500, responses.error(f"{type(error).__name__}: {error}"))

    def _route(self, request: Request, *, only_short: bool) -> Response:
        path = request.target
        if request.method == "POST" and (wanted := inference(path)) and not self._is_metrics(path):
            return self._infer(wanted, request, only_short=only_short)
        if request.method not in _METHODS:
            return page(501, "Not Implemented")
        if not URI.fullmatch(path):
            return page(400, "Bad Request")
        if outside := self._outside(request):
            return outside
        if not OURS.fullmatch(path):
            return page(404, "Not Found")
        if request.method == "OPTIONS":
            allowed = re.search(rb"https?://", request.headers.get(b"origin", b""))
            return Response(200 if allowed else 400, b"", b"text/html; charset=ISO-8859-1")
        if request.method == "GET" or (request.method == "HEAD" and self._list_models and path == LISTING):
            match = STATUS.fullmatch(path)
            if match:
                return self._describe(match)
        malformed = f"Malformed request: {request.method} {path.decode('utf-8', 'surrogateescape')}"
        raise RequestError(Code.INVALID_ARGUMENT, malformed)

    def _outside(self, request: Request) -> Response | None:
        """Returns the response of the page for Prometheus or of a probe; None for other paths."""
        path = request.target
        if self._metrics_path and self._is_metrics(path):
            return self._metrics(path, self._metrics_path)
        if request.method in ("GET", "HEAD") and (match := PROBE.fullmatch(path)):
            return self._probe(match)
        return None

    def _is_metrics(self, path: bytes) -> bool:
        return bool(self._metrics_path) and path.partition(b"?")[0] == self._metrics_path

    def _metrics(self, path: bytes, wanted: bytes) -> Response:
        if path != wanted:
            return Response(400, b"Unexpected path: " + path + b". Should be " + wanted, TEXT)
        return Response(200, self._page(), TEXT)

    def _probe(self, match: re.Match[bytes]) -> Response:
        """Returns the response of a probe: liveness, or readiness of all models or of one."""
        if match["live"]:
            return Response(200, b"ok\n", TEXT)
        available = self._served.view.available()
        model = unescape(match["model"])
        try:
            wanted = self._wanted()
        except RequestError as error:
            return Response(503, f"{error}\n".encode(), TEXT)
        missing = sorted(name for name in ([model] if model else wanted) if not available.get(name))
        if missing:
            text = f"not ready: no version available of {', '.join(map(repr, missing))}\n"
            return Response(503, text.encode("utf-8", "surrogateescape"), TEXT)
        return Response(200, b"ready\n", TEXT)

    def _infer(self, wanted: Inference, request: Request, *, only_short: bool) -> Response:
        spec, verb = wanted
        if spec is None:
            return Response(400, b"")
        started = time.monotonic()
        try:
            response = self._infer_model(spec, verb, request, started, only_short=only_short)
        except RequestError as error:
            metrics.count_failure(self._known(spec), error)
            raise
        except RefusedError:
            metrics.count_failure(self._known(spec), RequestError(Code.RESOURCE_EXHAUSTED, ""))
            raise
        metrics.count_success(spec.name, verb, "REST", started)
        return response

    def _known(self, spec: ModelSpec) -> str:
        return spec.name if self._served.view.has_model(spec.name) else metrics.UNKNOWN

    def _infer_model(
        self, spec: ModelSpec, verb: str, request: Request, started: float, *, only_short: bool
    ) -> Response:
        body = unpacked(request, self._largest_body)
        if verb == "predict" and len(body) > _FEW_NUMBERS and (plain := read_plain(body)):
            response = self._infer_plain(spec, plain, request, started, only_short=only_short)
            if response:
                return response
        document = parse(body, self._most_values)
        name = signature_name(document)
        if verb != "predict":
            if only_short:
                raise LongError
            return self._infer_examples(spec, name, verb, read_examples(document))
        with acquire(self._served, spec) as servable:
            signature = servable.signatures.get(name)
            if signature is None:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f'Serving signature name: "{name}" not found in signature def',
                    servable.has_signatures(),
                )
            if not signature.inputs:
                raise RequestError(Code.INVALID_ARGUMENT, f"Failed to get input map for signature: {name}")
            pace = self._pace(servable, name, request, only_short=only_short)
            arrays, in_rows = read_inputs(document, signature.inputs, self._most_nested)
            if servable.check_shapes:
                arrays = complete_empty(arrays, signature.inputs)
            return self._predict(servable, signature, arrays, pace, started, in_rows=in_rows)

    def _infer_plain(
        self, spec: ModelSpec, plain: Plain, request: Request, started: float, *, only_short: bool
    ) -> Response | None:
        with acquire(self._served, spec) as servable:
            signature = servable.signatures.get(plain.signature)
            if signature is None or len(signature.inputs) != 1:
                return None
            pace = self._pace(servable, plain.signature, request, only_short=only_short)
            ((name, wanted),) = signature.inputs.items()
            array = plain.read(wanted.dtype)
            if array is None:
                return None
            return self._predict(servable, signature, {name: array}, pace, started, in_rows=plain.in_rows)

    def _pace(self, servable: Servable, name: str, request: Request, *, only_short: bool) -> Pace | None:
        """Returns the pace of a signature, if the request counts for it. Raises LongError as `respond` does."""
        pace = servable.paces.get(name) if only_short or self.may_be_short(request) else None
        if only_short and (pace is None or not pace.short):
            raise LongError
        return pace

    def _predict(
        self,
        servable: Servable,
        signature: Signature,
        arrays: Mapping[str, Array],
        pace: Pace | None,
        started: float,
        *,
        in_rows: bool,
    ) -> Response:
        computed.seconds = 0.0
        size = None
        try:
            outputs = predict(servable, signature, arrays, lambda array: array)
            self._log_predict(signature.name, arrays, outputs)
            body = (responses.rows if in_rows else responses.columns)(outputs)
            size = len(body)
            return Response(200, body)
        finally:
            if pace is not None:
                pace.note(computed.seconds, started, failed=size is None, much=(size or 0) > _SMALL_RESPONSE)

    def _log_predict(self, signature: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        if self._request_log is not None and self._request_log.wants():
            self._request_log.note(partial(log_predict, signature, inputs, outputs), size_of(inputs, outputs))

    def _infer_examples(self, spec: ModelSpec, name: str, verb: str, examples: list[bytes]) -> Response:
        with acquire(self._served, spec) as servable:
            task = make_task(servable, find_signature(servable, name), CLASSIFY if verb == "classify" else REGRESS)
            (result,) = run(servable, [task], examples)
        if self._request_log is not None and self._request_log.wants():
            self._request_log.note(
                partial(log_examples, name, verb, examples, result), size_of_examples(examples, result)
            )
        if isinstance(result, Classifications):
            return Response(200, responses.classifications(result))
        return Response(200, responses.regressions(result))

    def _describe(self, match: re.Match[bytes]) -> Response:
        if match["model"] is None and match["version"] is None and match["label"] is None and self._list_models:
            return Response(200, responses.models(self._served.view.available()))
        if match["model"] is None:
            raise RequestError(Code.INVALID_ARGUMENT, "Missing model name in request.")
        spec = model_spec(match)
        if spec is None:
            return Response(400, b"")
        headers = self._headers
        if match["metadata"] == b"metadata":
            with acquire(self._served, spec) as servable:
                body = responses.metadata(servable.model, servable.version, servable.definitions)
                if servable.manifest:
                    headers += f"{MANIFEST_HEADER}: sha256:{servable.manifest}\r\n".encode()
        else:
            # The label is ignored, as in TensorFlow Serving.
            body = responses.statuses(self._served.view.statuses(spec.name, spec.version), explain=self._explain)
        return Response(200, body, headers=headers)
