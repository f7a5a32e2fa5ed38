"""Warm-up: requests in a version's folder that run before it becomes available.

https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import RecordError, read_records
from tfserving.foundation.tensors import from_proto
from tfserving.serving.embedded.core.example_messages import infer, infer_all
from tfserving.serving.embedded.core.examples import CLASSIFY, REGRESS
from tfserving.serving.embedded.core.inference import predict
from tfserving.serving.embedded.core.loader import Servable
from tfserving.serving.embedded.core.signature import DEFAULT_SIGNATURE
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics

log = logging.getLogger(__name__)

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MOST_RECORDS = 1000
# The part of an unreadable record that an error shows.
MOST_SHOWN = 1000


def play(servable: Servable, folder: Path, times: int = 1) -> int:
    """Runs the warm-up requests in the version's `folder`, if there are any, each `times` times; returns how many.

    A record without a request is skipped, as in TensorFlow Serving. Raises RequestError when the file can't be read,
    has more than a thousand records, or a request fails.
    """
    file = folder / FILE
    if not file.exists():
        return 0
    played = 0
    for number, record in enumerate(_records(file)):
        if number >= MOST_RECORDS:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {file}",
            )
        try:
            entry = PredictionLog.FromString(record)
        except DecodeError as error:
            shown = record[:MOST_SHOWN].decode(errors="replace")
            text = f"Failed to parse warmup record: {shown} from {file}"
            raise RequestError(
                Code.INVALID_ARGUMENT, text, f"record {number} is not a PredictionLog: {error}"
            ) from None
        kind = entry.WhichOneof("log_type")
        if kind in _PLAYERS:
            for _ in range(times):
                _play(servable, kind, getattr(entry, kind).request, str(folder))
            played += 1
            metrics.WARMUP_RECORDS.add(str(folder), "OK")
        elif kind is not None:
            log.warning("%s: record %d is skipped, because this server doesn't run a %s", file, number, kind)
    return played


def _play(servable: Servable, kind: str, request: Any, path: str) -> None:
    started = time.monotonic()
    status = "OK"
    try:
        _PLAYERS[kind](servable, request)
    except RequestError as error:
        status = error.code.name
        raise
    finally:
        metrics.WARMUP_LATENCY.observe((time.monotonic() - started) * 1e6, path, status)


def _predict(servable: Servable, request: Any) -> None:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise RequestError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    predict(servable, signature, request.inputs, from_proto, request.output_filter)


_PLAYERS: dict[str, Callable[[Servable, Any], object]] = {
    "predict_log": _predict,
    "classify_log": lambda servable, request: infer(servable, request, CLASSIFY),
    "regress_log": lambda servable, request: infer(servable, request, REGRESS),
    "multi_inference_log": infer_all,
}


def _records(file: Path) -> Iterator[bytes]:
    # TensorFlow's own reader ends the process when a record's length is larger than the memory.
    try:
        yield from read_records(file)
    except RecordError as error:
        if not error.seen:
            log.warning("the warm-up file is %s; the rest of it is ignored, as in TensorFlow Serving", error)
            return
        # TensorFlow Serving's text, with the cause as explanation.
        text = f"{error.seen}. Please verify your warmup data is in TFRecord format."
        raise RequestError(Code.DATA_LOSS, text, f"the warm-up file is {error}") from None
    except OSError as error:
        code = Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.FAILED_PRECONDITION
        raise RequestError(code, f"{file}; {error.strerror}") from None
