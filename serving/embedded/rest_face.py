"""The REST face: TensorFlow Serving's URLs over the core, as an ASGI application.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from clients.tensors import Array
from serving.embedded import metrics, rest_answer
from serving.embedded.access_log import AccessLog
from serving.embedded.errors import Code, RequestError
from serving.embedded.examples import CLASSIFY, REGRESS, Classifications, find_signature, make_task, run
from serving.embedded.inference import ModelSpec, acquire, predict
from serving.embedded.pool import EagerPool, Pool
from serving.embedded.request_log import RequestLog, log_examples, log_predict
from serving.embedded.rest_examples import read_examples
from serving.embedded.rest_parse import parse
from serving.embedded.rest_plain import Plain, read_plain
from serving.embedded.rest_request import read_inputs, signature_name
from serving.embedded.served import Served

log = logging.getLogger(__name__)

JSON = b"application/json"
HTML = b"text/html"
TEXT = b"text/plain"
CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)
LARGEST_VERSION = 2**63 - 1
# What a compressed body may come to; the real server's limit.
MOST_UNPACKED = 100 * 2**20

_OURS = re.compile(rb"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = rb"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(
    rb"/v1/models/(?P<model>[^/:]+)" + _VERSION + rb":(?P<verb>predict|classify|regress)", re.IGNORECASE
)
_STATUS = re.compile(rb"/v1/models(?:/(?P<model>[^/:]+))?" + _VERSION + rb"(?:/(?P<metadata>metadata))?", re.IGNORECASE)
# What RFC 3986 allows in a path, a query and a fragment; the real server's parser refuses the rest.
_PLAIN = rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9a-fA-F]{2})*"
_AUTHORITY = re.compile(rb"^https?://[^/?#]*", re.IGNORECASE)
_URI = re.compile(_PLAIN + rb"(?:\?(?:" + _PLAIN[:-1] + rb"|\?)*)?(?:#(?:" + _PLAIN[:-1] + rb"|\?)*)?")
_PROBE = re.compile(rb"/(?:(?P<live>healthz)|readyz(?:/(?P<model>[^/]+))?)")
_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")

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

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """One HTTP request; `target` is the path as it was sent, query string included."""

    method: str
    target: bytes
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


@dataclass(frozen=True)
class Response:
    """One HTTP answer."""

    status: int
    body: bytes
    kind: bytes = JSON


class RestFace:
    """Answers HTTP requests. What may take time runs in a pool of `threads` threads, off the event loop."""

    def __init__(
        self,
        served: Served,
        threads: int,
        *,
        wanted: Callable[[], Collection[str]],
        eager: bool = False,
        explain: bool = True,
        cors: bool = False,
        metrics_path: bytes | None = None,
        page: Callable[[], bytes] = metrics.page,
        list_models: bool = False,
        most_in_flight: int = 0,
        largest_body: int = 0,
        seconds: float | None = None,
        access_log: AccessLog | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        """`wanted` tells the models that must be there to be ready. `explain` is for errors.

        Requests that are batched wait for each other, which needs an `eager` pool.

        With `cors` scripts of any web page may read the answers. `metrics_path` is where Prometheus finds `page`. With
        `list_models` GET /v1/models lists them. Beyond `most_in_flight` requests, and `largest_body` bytes, requests
        are refused; 0 is no limit. An answer that takes more than `seconds` is not waited for.
        """
        self._seconds = seconds
        self._access_log = access_log
        self._request_log = request_log
        self._served = served
        self._list_models = list_models
        self._wanted = wanted
        self._most_in_flight = most_in_flight
        self._largest_body = largest_body
        self._in_flight = 0
        self._metrics_path = metrics_path
        self._page = page
        self._cors = CORS if cors else ()
        self._explain = explain
        self._pool = (EagerPool if eager else Pool)(threads, "rest")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application, as https://asgi.readthedocs.io/en/latest/specs/www.html describes it."""
        # Only the event loop's thread counts.
        self._in_flight += 1
        try:
            await self._respond(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = self._refusal(scope) or await self._read(scope, receive)
        if read is None:
            return
        refused = isinstance(read, Response)
        if isinstance(read, Response):
            response = read
            self._log_refusal(scope, response)
        else:
            response = await self._answer_in_time(read)
        headers = [(b"content-type", response.kind), (b"content-length", b"%d" % len(response.body))]
        if response.kind is not HTML:
            headers += self._cors
        if refused:
            # What is left of the body is not read.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    async def _answer_in_time(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        # loop.run_in_executor and asyncio.wait_for do the same at a higher price.
        answering: asyncio.Future[Response] = loop.create_future()

        def answer() -> None:
            if answering.cancelled():
                return
            response = self.answer(request)
            # Nobody waits for it any more when the loop is closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, response)

        def finish(response: Response) -> None:
            if not answering.cancelled():
                answering.set_result(response)

        self._pool.post(answer)
        if self._seconds is None:
            return await answering
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            answering.cancel()

        timer = loop.call_later(self._seconds, give_up)
        try:
            return await answering
        except asyncio.CancelledError:
            # The time wouldn't tell: a timer may come a millisecond before its time.
            if not late:
                raise
            # TensorFlow's words. What runs can't be stopped, and ends by itself.
            return Response(504, rest_answer.error("Timed out waiting for notification"))
        finally:
            timer.cancel()

    async def _read(self, scope: Scope, receive: Receive) -> Request | Response | None:
        """The request, once all of it is here; None when its client is gone, the answer when it is too large."""
        body: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return None
            body.append(event.get("body", b""))
            size += len(body[-1])
            if self._largest_body and size > self._largest_body:
                return self._too_large()
            if not event.get("more_body"):
                break
        # What a proxy would be sent, http://host/path, is answered too.
        target = _AUTHORITY.sub(b"", scope["target"], 1)
        client = scope["client"]
        return Request(
            scope["method"],
            target,
            dict(scope["headers"]),
            b"".join(body),
            f"{client[0]}:{client[1]}" if client else "",
        )

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not even read."""
        if self._most_in_flight and self._in_flight > self._most_in_flight:
            text = f"{self._most_in_flight} requests are in flight already, no more are taken; try again later"
            return Response(429, rest_answer.error(text))
        if self._largest_body:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length[:20]) > self._largest_body:
                return self._too_large()
        return None

    def _log_refusal(self, scope: Scope, response: Response) -> None:
        if self._access_log is not None:
            self._access_log.write(
                self._access_log.begin(),
                "rest",
                method=scope["method"],
                path=scope["target"],
                client=_client(scope),
                status=response.status,
                request_bytes=None,
                response_bytes=len(response.body),
            )

    def _too_large(self) -> Response:
        return Response(413, rest_answer.error(f"The body is larger than {self._largest_body} bytes"))

    def answer(self, request: Request) -> Response:
        """The answer to `request`; never raises."""
        if self._access_log is None:
            return self._answer(request)
        began = self._access_log.begin()
        response = self._answer(request)
        self._access_log.write(
            began,
            "rest",
            method=request.method,
            path=request.target,
            client=request.client,
            status=response.status,
            request_bytes=len(request.body),
            response_bytes=len(response.body),
        )
        return response

    def _answer(self, request: Request) -> Response:
        try:
            return self._route(request)
        except RequestError as error:
            return Response(_HTTP.get(error.code, 500), rest_answer.error(error.say(explain=self._explain)))
        except Exception as error:
            log.exception("a REST request failed")
            return Response(500, rest_answer.error(f"{type(error).__name__}: {error}"))

    def _route(self, request: Request) -> Response:
        path = request.target
        if request.method not in _METHODS:
            return page(501, "Not Implemented")
        if not _URI.fullmatch(path):
            return page(400, "Bad Request")
        if outside := self._outside(request):
            return outside
        if not _OURS.fullmatch(path):
            return page(404, "Not Found")
        if request.method == "OPTIONS":
            allowed = re.search(rb"https?://", request.headers.get(b"origin", b""))
            return Response(200 if allowed else 400, b"", b"text/html; charset=ISO-8859-1")
        if request.method == "POST":
            match = _INFERENCE.fullmatch(path)
            if match and match["verb"] in (b"predict", b"classify", b"regress"):
                return self._infer(match, request)
        elif request.method == "GET":
            match = _STATUS.fullmatch(path)
            if match:
                return self._describe(match)
        malformed = f"Malformed request: {request.method} {path.decode('utf-8', 'surrogateescape')}"
        raise RequestError(Code.INVALID_ARGUMENT, malformed)

    def _outside(self, request: Request) -> Response | None:
        """Prometheus' page, and probes."""
        path = request.target
        if self._metrics_path and path.partition(b"?")[0] == self._metrics_path:
            return self._metrics(path, self._metrics_path)
        if request.method == "GET" and (match := _PROBE.fullmatch(path)):
            return self._probe(match)
        return None

    def _metrics(self, path: bytes, wanted: bytes) -> Response:
        if path != wanted:
            return Response(400, b"Unexpected path: " + path + b". Should be " + wanted, TEXT)
        return Response(200, self._page(), TEXT)

    def _probe(self, match: re.Match[bytes]) -> Response:
        """Whether the server lives, or whether its models, or one of them, can be asked."""
        if match["live"]:
            return Response(200, b"ok\n", TEXT)
        available = self._served.view.available()
        model = _unescape(match["model"])
        missing = sorted(name for name in ([model] if model else self._wanted()) if not available.get(name))
        if missing:
            text = f"not ready: no version available of {', '.join(map(repr, missing))}\n"
            return Response(503, text.encode("utf-8", "surrogateescape"), TEXT)
        return Response(200, b"ready\n", TEXT)

    def _infer(self, match: re.Match[bytes], request: Request) -> Response:
        spec = _model_spec(match)
        if spec is None:
            return Response(400, b"")
        verb = match["verb"].decode()
        started = time.monotonic()
        try:
            response = self._infer_model(spec, verb, request)
        except RequestError as error:
            metrics.count_failure(spec.name, error)
            raise
        metrics.count_answer(spec.name, verb, "REST", started)
        return response

    def _infer_model(self, spec: ModelSpec, verb: str, request: Request) -> Response:
        body = _unpacked(request)
        if verb == "predict" and (plain := read_plain(body)) and (answered := self._infer_plain(spec, plain)):
            return answered
        document = parse(body)
        name = signature_name(document)
        if verb != "predict":
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
            arrays, in_rows = read_inputs(document, signature.inputs)
            outputs = predict(servable, signature, arrays, lambda array: array)
        self._log_predict(name, arrays, outputs)
        return Response(200, (rest_answer.rows if in_rows else rest_answer.columns)(outputs))

    def _infer_plain(self, spec: ModelSpec, plain: Plain) -> Response | None:
        with acquire(self._served, spec) as servable:
            signature = servable.signatures.get(plain.signature)
            if signature is None or len(signature.inputs) != 1:
                return None
            ((name, wanted),) = signature.inputs.items()
            array = plain.read(wanted.dtype)
            if array is None:
                return None
            outputs = predict(servable, signature, {name: array}, lambda array: array)
        self._log_predict(plain.signature, {name: array}, outputs)
        return Response(200, (rest_answer.rows if plain.in_rows else rest_answer.columns)(outputs))

    def _log_predict(self, signature: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        if self._request_log is not None and self._request_log.wants():
            self._request_log.note(partial(log_predict, signature, inputs, outputs))

    def _infer_examples(self, spec: ModelSpec, name: str, verb: str, examples: list[bytes]) -> Response:
        with acquire(self._served, spec) as servable:
            task = make_task(servable, find_signature(servable, name), CLASSIFY if verb == "classify" else REGRESS)
            (result,) = run(servable, [task], examples)
        if self._request_log is not None and self._request_log.wants():
            self._request_log.note(partial(log_examples, name, verb, examples, result))
        if isinstance(result, Classifications):
            return Response(200, rest_answer.classifications(result))
        return Response(200, rest_answer.regressions(result))

    def _describe(self, match: re.Match[bytes]) -> Response:
        if match["model"] is None and match["version"] is None and match["label"] is None and self._list_models:
            return Response(200, rest_answer.models(self._served.view.available()))
        if match["model"] is None:
            raise RequestError(Code.INVALID_ARGUMENT, "Missing model name in request.")
        spec = _model_spec(match)
        if spec is None:
            return Response(400, b"")
        if match["metadata"] == b"metadata":
            with acquire(self._served, spec) as servable:
                return Response(200, rest_answer.metadata(servable.model, servable.version, servable.definitions))
        # The label is ignored, as TensorFlow Serving ignores it.
        return Response(
            200, rest_answer.statuses(self._served.view.statuses(spec.name, spec.version), explain=self._explain)
        )


def _model_spec(match: re.Match[bytes]) -> ModelSpec | None:
    """What the URL asks for; None for a version number that 64 bits can't hold."""
    model, label = (_unescape(match[name]) for name in ("model", "label"))
    if match["version"] is None:
        return ModelSpec(model or "", label=label)
    number = match["version"].lstrip(b"0") or b"0"
    # Python refuses to read numbers of thousands of digits.
    if len(number) > len(str(LARGEST_VERSION)) or int(number) > LARGEST_VERSION:
        return None
    return ModelSpec(model or "", version=int(number))


def _unescape(text: bytes | None) -> str | None:
    return None if text is None else unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _client(scope: Scope) -> str:
    return "{}:{}".format(*scope["client"]) if scope["client"] else ""


def _unpacked(request: Request) -> bytes:
    """The body, inflated if it is gzip; one that does not inflate counts as empty, as with the real server."""
    if b"gzip" not in request.headers.get(b"content-encoding", b""):
        return request.body
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(request.body, MOST_UNPACKED)
    except zlib.error:
        return b""
    return data if inflater.eof and not inflater.unused_data else b""


def page(status: int, title: str) -> Response:
    """The HTML that the real server answers with outside its API."""
    text = f"<HTML><HEAD>\n<TITLE>{status} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n</BODY></HTML>\n"
    return Response(status, text.encode(), HTML)
