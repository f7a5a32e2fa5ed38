"""Writes golden requests to disk as TensorFlow Serving's own record, PredictionLog, with request and response.

The warm-up requests are the same without the responses, and batches of every power of two up to the largest golden
batch. So a server has run every batch size that it pads to before it reports the version as available: on a GPU a new
size costs 0.2 to 0.5 s, and with XLA 7 to 13 s. https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfserving.export.errors import ServableError
from tfserving.export.rows import rows_in
from tfserving.foundation.batch_sizes import powers_of_two
from tfserving.foundation.golden import RECORDS, WARMUP, GoldenRequest, log_of

# TensorFlow Serving reads at most this many records.
# https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/servables/tensorflow/saved_model_warmup_util.h
MOST_WARMUP = 1000
# The bytes that batches of more sizes may add to the file.
MOST_BYTES = 256 << 20


def write_golden(
    requests: Iterable[GoldenRequest], model: str, version_folder: Path, batched: Collection[str] = ()
) -> None:
    """Write golden and warm-up requests of model `model` to `version_folder`.

    The signatures in `batched` get warm-up requests of more batch sizes.
    """
    import tensorflow as tf

    requests = list(requests)
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
        written = 0
        for request in list(_more_sizes(requests, batched))[: max(0, MOST_WARMUP - len(requests))]:
            data = prediction_log(request, model).SerializeToString(deterministic=True)
            written += len(data)
            if written > MOST_BYTES:
                break
            warmup.write(data)


def _more_sizes(requests: Iterable[GoldenRequest], batched: Collection[str]) -> Iterator[GoldenRequest]:
    """Yield requests of the batch sizes that the golden `requests` lack, the smallest first, without outputs."""
    for signature in sorted(batched):
        rows = {number: one for one in requests if one.signature == signature and (number := rows_in(one.inputs))}
        # A signature that fixes the batch size has only that one.
        if len(rows) < 2:  # noqa: PLR2004
            continue
        largest = rows[max(rows)]
        for size in powers_of_two(max(rows)):
            if size not in rows:
                inputs = {name: array[:size] for name, array in largest.inputs.items()}
                yield replace(largest, inputs=inputs, outputs={})


def prediction_log(request: GoldenRequest, model: str) -> Any:
    """Return the PredictionLog of `request` to model `model`, with its outputs."""
    try:
        return log_of(request, model)
    except ValueError as error:
        raise ServableError(str(error)) from None
