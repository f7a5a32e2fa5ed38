"""Real requests, captured: from a request log or files of requests, to golden and warm-up records.

A golden record has its answer, a warm-up record needs none. Both are TensorFlow Serving's own PredictionLog, so one
file feeds verification, a comparison of two servers, a load test, and a server's warm-up.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfserving.clients.answers import Signature
from tfserving.clients.asked import DEFAULT_SIGNATURE
from tfserving.clients.client import Client
from tfserving.clients.commands.input_values import InputError, body_of, unpack
from tfserving.clients.golden import ask
from tfserving.clients.inputs import to_arrays
from tfserving.foundation.golden import GoldenRequest, log_of, request_of
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import RecordError, read_records, read_whole_records

# What TensorFlow Serving plays, at most: https://www.tensorflow.org/tfx/serving/saved_model_warmup
MOST_WARM_UP = 1000


class CaptureError(Exception):
    """A source of requests can't be used; the text names it, and where in it the trouble is."""


@dataclass(frozen=True)
class CapturedRequest:
    """A request to `model`, of `version` if it is pinned, with its answer if there is one."""

    model: str
    version: int | None
    request: GoldenRequest

    @property
    def key(self) -> bytes:
        """The same for requests that ask the same."""
        return bytes(replace(self, version=None, request=replace(self.request, outputs={})).record())

    def record(self) -> bytes:
        """As a serialized PredictionLog."""
        return bytes(log_of(self.request, self.model, self.version).SerializeToString(deterministic=True))


def read_requests(
    source: Path,
    model: str | None = None,
    server: Client | None = None,
    left_out: Callable[[str], None] | None = None,
) -> Iterator[CapturedRequest]:
    """The requests in `source`: a TFRecord of PredictionLog, or JSON lines of REST predict requests.

    A line of JSON is a request's body and may have the `model` in it, too; `server` says what types its numbers are.
    Only requests to `model` are read if it is given.

    Records that are damaged, or hold no request, are left out when `left_out` is given, which is called with a text
    about them. Raises CaptureError.
    """
    try:
        is_json = source.suffix in (".json", ".jsonl")
        read = _from_json(source, model, server) if is_json else captured(source, left_out)
        yield from (request for request in read if model in (None, request.model))
    except OSError as error:
        raise CaptureError(f"{source}: {error.strerror}") from None
    except RecordError as error:
        raise CaptureError(str(error)) from None


def distinct(requests: Iterable[CapturedRequest]) -> Iterator[CapturedRequest]:
    """`requests` without those that ask what was asked before."""
    seen: set[bytes] = set()
    for request in requests:
        key = hashlib.sha256(request.key).digest()
        if key not in seen:
            seen.add(key)
            yield request


def sampled(requests: Iterable[CapturedRequest], most: int) -> list[CapturedRequest]:
    """At most `most` of `requests`, each as likely as any other, in their order; always the same ones."""
    randomly = random.Random(0)  # noqa: S311 - no secret
    kept: list[tuple[int, CapturedRequest]] = []
    for number, request in enumerate(requests):
        if len(kept) < most:
            kept.append((number, request))
        elif (place := randomly.randrange(number + 1)) < most:
            kept[place] = (number, request)
    return [request for _, request in sorted(kept, key=lambda one: one[0])]


def answered(asked: CapturedRequest, server: Client, timeout: float) -> CapturedRequest:
    """The request with what `server` answers to it now, within `timeout` seconds. Raises a ServingError."""
    outputs = ask(server, asked.model, asked.request, version=asked.version, timeout=timeout)
    return replace(asked, request=replace(asked.request, outputs=outputs))


def captured(source: Path, left_out: Callable[[str], None] | None = None) -> Iterator[CapturedRequest]:
    """The requests in the TFRecord file `source`; see `read_requests`. Raises CaptureError, RecordError or OSError."""
    if left_out is None:
        records = read_records(source)
    else:
        note = left_out
        records = read_whole_records(source, lambda error, size: note(f"{error}; {size} bytes are left out"))
    for number, data in enumerate(records):
        try:
            request = _captured(data)
        except (DecodeError, ValueError) as error:
            text = f"{source}, record {number}: {error}"
            if left_out is None:
                raise CaptureError(text) from None
            left_out(f"{text}; it is left out")
        else:
            yield request


def _captured(data: bytes) -> CapturedRequest:
    log = PredictionLog.FromString(data)
    request = request_of(log, answered=False)
    spec = getattr(log, log.WhichOneof("log_type")).request.model_spec
    if not spec.name:
        raise ValueError("it names no model")
    return CapturedRequest(spec.name, int(spec.version.value) if spec.HasField("version") else None, request)


def _from_json(source: Path, model: str | None, server: Client | None) -> Iterator[CapturedRequest]:
    if server is None:
        raise CaptureError(f"{source} is JSON, which has no element types: a server that knows them is needed")
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
            body = unpack(json.loads(line))
            if not isinstance(body, dict):
                raise ValueError("it is no object, as a request's body is")
            name = body.get("model", model)
            if not isinstance(name, str):
                raise ValueError("it names no model, nor is one asked for")
            if name not in known:
                known[name] = dict(server.metadata(name).signatures)
            yield CapturedRequest(name, None, _request(body, known[name]))
        except (InputError, TypeError, ValueError) as error:
            raise CaptureError(f"{where}: {error}") from None
        except RecursionError:
            raise CaptureError(f"{where}: it is nested too deeply") from None


def _request(body: Any, signatures: dict[str, Signature]) -> GoldenRequest:
    given = body_of({key: value for key, value in body.items() if key != "model"})
    name = given.signature or DEFAULT_SIGNATURE
    if name not in signatures:
        raise ValueError(f"there is no signature {name!r}; there is {', '.join(signatures)}")
    return GoldenRequest(name, to_arrays(given.inputs, name, signatures[name]), {})
