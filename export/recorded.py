"""Requests recorded in a SavedModel: its warm-up requests, or the golden requests of a version of this toolkit."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from google.protobuf.message import DecodeError

from tfserving.clients.inputs import mismatches
from tfserving.clients.results import Signature as ServedSignature
from tfserving.clients.results import TensorInfo
from tfserving.export.errors import ServableError
from tfserving.export.given import Given
from tfserving.export.records import MOST_WARMUP
from tfserving.export.servable import Signature
from tfserving.foundation.golden import RECORDS, WARMUP, request_of
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import RecordError, read_records


def recorded(folder: Path, signatures: Mapping[str, Signature]) -> list[Given]:
    """Return the requests recorded in the SavedModel in `folder` for these `signatures`, without outputs.

    TensorFlow Serving replays warm-up requests when it loads a version:
    https://www.tensorflow.org/tfx/serving/saved_model_warmup. Raises ServableError for a file that can't be read, and
    for a request that its signature does not accept.
    """
    path = folder / RECORDS if (folder / RECORDS).exists() else folder / WARMUP
    found: list[Given] = []
    if not path.exists():
        return found
    where = str(path)
    try:
        for number, data in enumerate(islice(read_records(path), MOST_WARMUP)):
            where = f"{path}, record {number}"
            log = PredictionLog.FromString(data)
            # MultiInference and SessionRun can be replayed, too, but they don't call one signature.
            if log.WhichOneof("log_type") in ("predict_log", "classify_log", "regress_log"):
                request = request_of(log, responded=False)
                if request.signature in signatures:
                    found.append(_checked(Given(where, request.signature, request.inputs), signatures))
    except OSError as error:
        raise ServableError(f"{path}: {error.strerror}") from None
    except RecordError as error:
        raise ServableError(str(error)) from None
    except (DecodeError, ValueError) as error:
        raise ServableError(f"{where} can't be read: {error}") from None
    return found


def _checked(given: Given, signatures: Mapping[str, Signature]) -> Given:
    signature = signatures[given.signature]
    infos = {name: TensorInfo(spec.dtype, spec.shape) for name, spec in signature.inputs.items()}
    wanted = ServedSignature("", infos, {}, frozenset(signature.defaults))
    if wrong := mismatches(dict(given.inputs), given.signature, wanted):
        raise ServableError(f"{given.where}: {wrong[0]}")
    return given
