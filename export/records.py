"""Writes golden requests to disk as TensorFlow Serving's own record, PredictionLog, with request and response.

The warm-up requests are the same without the responses, so a server has run every batch size before it reports the
version as available. https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfserving.export.errors import ServableError
from tfserving.foundation.golden import RECORDS, WARMUP, GoldenRequest, log_of

# TensorFlow Serving reads at most this many records.
# https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/servables/tensorflow/saved_model_warmup_util.h
MOST_WARMUP = 1000


def write_golden(requests: Iterable[GoldenRequest], model: str, version_folder: Path) -> None:
    """Write golden and warm-up requests of model `model` to `version_folder`."""
    import tensorflow as tf

    (version_folder / RECORDS).parent.mkdir(exist_ok=True)
    with (
        tf.io.TFRecordWriter(str(version_folder / RECORDS)) as golden,
        tf.io.TFRecordWriter(str(version_folder / WARMUP)) as warmup,
    ):
        for number, request in enumerate(requests):
            log = prediction_log(request, model)
            golden.write(log.SerializeToString(deterministic=True))
            if number < MOST_WARMUP:
                getattr(log, f"{request.method}_log").ClearField("response")
                warmup.write(log.SerializeToString(deterministic=True))


def prediction_log(request: GoldenRequest, model: str) -> Any:
    """Return the PredictionLog of `request` to model `model`, with its outputs."""
    try:
        return log_of(request, model)
    except ValueError as error:
        raise ServableError(str(error)) from None
