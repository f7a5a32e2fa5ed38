"""The labelled rows that a version carries: TFRecord of PredictionLog, as its golden requests are.

Each record is a predict request with up to 1024 rows; its response has the labels. The manifest names the metric that
is computed from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from tfserving.foundation.files import read_bounded
from tfserving.foundation.golden import MANIFEST, GoldenRequest, log_of, request_of
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.quality import LARGEST_BYTES, MOST_ROWS, Evaluation
from tfserving.foundation.records import RecordError, read_records, write_records

ROWS = "assets.extra/evaluation.tfrecord"
LABELS = "labels"
_ROWS_OF_RECORD = 1024
# Names and sizes of the arrays come on top of these.
_LARGEST_FILE = LARGEST_BYTES + (LARGEST_BYTES >> 2)


class EvaluationError(Exception):
    """Labelled rows are damaged, too many, or don't fit; the text names the file."""


def write_evaluation(evaluation: Evaluation, model: str, version_folder: Path) -> None:
    """Writes the rows of `evaluation` into `version_folder`."""
    path = version_folder / ROWS
    path.parent.mkdir(exist_ok=True)
    write_records(path, (log.SerializeToString(deterministic=True) for log in _logs(evaluation, model)))


def read_evaluation(version_folder: Path) -> Evaluation | None:
    """The evaluation that the version in `version_folder` carries, checked with the manifest's SHA-256; or None.

    Raises EvaluationError.
    """
    path = version_folder / ROWS
    try:
        manifest = read_manifest_file(version_folder / MANIFEST)
        entry = manifest.evaluation()
        if entry is None:
            return None
        found = hashlib.sha256(read_bounded(path, _LARGEST_FILE)).hexdigest()
        if found != (wanted := manifest.sha256(ROWS)):
            raise EvaluationError(f"{path} has SHA-256 {found}, {MANIFEST} lists {wanted}: it was changed")
        requests = [_request(path, number, data) for number, data in enumerate(read_records(path))]
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from None
    except (ManifestError, RecordError) as error:
        raise EvaluationError(str(error)) from None
    except ValueError as error:
        raise EvaluationError(f"{path}: {error}") from None
    if not requests or sum(len(request.outputs[LABELS]) for request in requests) > MOST_ROWS:
        raise EvaluationError(f"{path} has no rows, or more than {MOST_ROWS}")
    try:
        evaluation = Evaluation(
            {name: np.concatenate([one.inputs[name] for one in requests]) for name in requests[0].inputs},
            np.concatenate([one.outputs[LABELS] for one in requests]),
            entry.metric,
            entry.output,
            entry.signature,
            entry.higher_is_better,
            entry.drop,
        )
    except (KeyError, ValueError):
        raise EvaluationError(f"{path}: its records have different inputs") from None
    if problem := next(evaluation.problems(), None):
        raise EvaluationError(f"{path}: {problem}")
    return evaluation


def _logs(evaluation: Evaluation, model: str) -> Iterator[PredictionLog]:
    for start in range(0, evaluation.rows, _ROWS_OF_RECORD):
        rows = slice(start, start + _ROWS_OF_RECORD)
        inputs = {name: array[rows] for name, array in evaluation.inputs.items()}
        yield log_of(GoldenRequest(evaluation.signature, inputs, {LABELS: evaluation.labels[rows]}), model)


def _request(path: Path, number: int, data: bytes) -> GoldenRequest:
    try:
        request = request_of(PredictionLog.FromString(data))
    except (DecodeError, ValueError) as error:
        raise EvaluationError(f"{path}, record {number}: {error}") from None
    arrays = [*request.inputs.values(), request.outputs.get(LABELS)]
    if any(array is None or array.ndim == 0 for array in arrays):
        raise EvaluationError(f"{path}, record {number}: got no labels, or an input without rows")
    return request
