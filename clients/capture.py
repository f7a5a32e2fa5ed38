"""Captured requests: read from a request log or files of requests, for golden and warm-up records.

A golden record contains the response, a warm-up record only the request. Both are TensorFlow Serving's PredictionLog,
so one file is the input of a verification, a comparison of two servers, a load test, and a server's warm-up.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfserving.clients.call_options import DEFAULT_SIGNATURE
from tfserving.clients.client import Client
from tfserving.clients.commands.input_values import InputError, body_of, unpack
from tfserving.clients.golden import golden_outputs
from tfserving.clients.inputs import to_arrays
from tfserving.clients.rest_json import parse_request
from tfserving.clients.results import Signature
from tfserving.foundation.golden import GoldenRequest, log_of, request_of
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import RecordError, read_records, read_whole_records

# The most requests that TensorFlow Serving replays: https://www.tensorflow.org/tfx/serving/saved_model_warmup
MOST_WARM_UP = 1000


class CaptureError(Exception):
    """A source of requests can't be used; the text names it and the place in it."""


@dataclass(frozen=True)
class CapturedRequest:
    """A request to `model`, to `version` if it names one, with its response if it was captured."""

    model: str
    version: int | None
    request: GoldenRequest

    @property
    def key(self) -> bytes:
        """The same for requests with the same model, signature and inputs."""
        return bytes(replace(self, version=None, request=replace(self.request, outputs={})).record())

    def record(self) -> bytes:
        """Return it as a serialized PredictionLog."""
        return bytes(log_of(self.request, self.model, self.version).SerializeToString(deterministic=True))


def read_requests(
    source: Path,
    model: str | None = None,
    server: Client | None = None,
    left_out: Callable[[str], None] | None = None,
) -> Iterator[CapturedRequest]:
    """Return the requests in `source`: a TFRecord of PredictionLog, or JSON lines of REST predict requests.

    A line of JSON is the body of a request, and may also contain the `model`. `server` is the source of the dtypes of
    its numbers. With `model`, only requests to it are returned.

    With `left_out`, records that are damaged or hold no request are skipped, and it is called with the reason. Raises
    CaptureError.
    """
    try:
        is_json = source.suffix in (".json", ".jsonl")
        read = _from_json(source, model, server) if is_json else recorded(source, left_out)
        yield from (request for request in read if model in (None, request.model))
    except OSError as error:
        raise CaptureError(f"{source}: {error.strerror}") from None
    except RecordError as error:
        raise CaptureError(str(error)) from None


def distinct(requests: Iterable[CapturedRequest]) -> Iterator[CapturedRequest]:
    """Return `requests` without repetitions."""
    seen: set[bytes] = set()
    for request in requests:
        key = hashlib.sha256(request.key).digest()
        if key not in seen:
            seen.add(key)
            yield request


def sampled(requests: Iterable[CapturedRequest], most: int) -> list[CapturedRequest]:
    """Return a uniform sample of at most `most` of `requests`, in their order; it is always the same one."""
    randomly = random.Random(0)  # noqa: S311 - no secret
    kept: list[tuple[int, CapturedRequest]] = []
    for number, request in enumerate(requests):
        if len(kept) < most:
            kept.append((number, request))
        elif (place := randomly.randrange(number + 1)) < most:
            kept[place] = (number, request)
    return [request for _, request in sorted(kept, key=lambda one: one[0])]


def with_response(captured: CapturedRequest, server: Client, timeout: float) -> CapturedRequest:
    """Return the request with the current response of `server`, within `timeout` seconds. Raises a ServingError."""
    request, version = captured.request, captured.version
    outputs = golden_outputs(server, captured.model, request, version=version, timeout=timeout)
    return replace(captured, request=replace(request, outputs=outputs))


def recorded(source: Path, left_out: Callable[[str], None] | None = None) -> Iterator[CapturedRequest]:
    """Return the requests in the TFRecord file `source`, see `read_requests`.

    Raises CaptureError, RecordError or OSError.
    """
    if left_out is None:
        records = read_records(source)
    else:
        note = left_out
        records = read_whole_records(source, lambda error, size: note(f"{error}; skipped {size} bytes"))
    for number, data in enumerate(records):
        try:
            request = _captured(data)
        except (DecodeError, ValueError) as error:
            text = f"{source}, record {number}: {error}"
            if left_out is None:
                raise CaptureError(text) from None
            left_out(f"{text}; skipped")
        else:
            yield request


def _captured(data: bytes) -> CapturedRequest:
    log = PredictionLog.FromString(data)
    request = request_of(log, responded=False)
    spec = getattr(log, log.WhichOneof("log_type")).request.model_spec
    if not spec.name:
        raise ValueError("the record has no model name")
    return CapturedRequest(spec.name, int(spec.version.value) if spec.HasField("version") else None, request)


def _from_json(source: Path, model: str | None, server: Client | None) -> Iterator[CapturedRequest]:
    if server is None:
        raise CaptureError(f"{source} is JSON, which has no dtypes; name a server with the model by --server")
    known: dict[str, dict[str, Signature]] = {}
    try:
        text = source.read_text("utf-8")
    except UnicodeDecodeError:
        raise CaptureError(f"{source} is not UTF-8; save it as UTF-8") from None
    lines = text.splitlines() if source.suffix == ".jsonl" else [text]
    for number, line in enumerate(lines, 1):
        where = f"{source}, line {number}" if source.suffix == ".jsonl" else str(source)
        if not line.strip():
            continue
        try:
            body = unpack(parse_request(line))
            if not isinstance(body, dict):
                raise ValueError("expected a JSON object, the body of a request")
            name = body.get("model", model)
            if not isinstance(name, str):
                raise ValueError('the request has no model; add "model" to it, or give --model')
            if name not in known:
                known[name] = dict(server.metadata(name).signatures)
            yield CapturedRequest(name, None, _request(body, known[name]))
        except (InputError, TypeError, ValueError) as error:
            raise CaptureError(f"{where}: {error}") from None
        except RecursionError:
            raise CaptureError(f"{where}: the JSON is nested too deeply") from None


def _request(body: Any, signatures: dict[str, Signature]) -> GoldenRequest:
    given = body_of({key: value for key, value in body.items() if key != "model"})
    name = given.signature or DEFAULT_SIGNATURE
    if name not in signatures:
        raise ValueError(f"the model lacks signature {name!r}; it has {', '.join(signatures)}")
    return GoldenRequest(name, to_arrays(given.inputs, name, signatures[name]), {})
