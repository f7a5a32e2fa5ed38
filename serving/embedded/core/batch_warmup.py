"""Warm-up of batch sizes: each allowed size of a batched signature runs before the version becomes available.

A GPU pays for each new size once: cuDNN measures its algorithms, and XLA compiles. Otherwise the first requests would
wait for that. The inputs are the rows of the warm-up requests, repeated or cut to the size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.batch_memory import row_bytes
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.loader import BatchedCall, Servable
from tfserving.serving.embedded.errors import RequestError
from tfserving.serving.embedded.observability import metrics

log = logging.getLogger(__name__)

# The limits for a version: runs, and bytes of the inputs of one run.
MOST_RUNS = 128
MOST_BYTES = 256 << 20
# A run that takes longer is reported when it is complete.
LONG_SECONDS = 1.0


def play_sizes(servable: Servable, folder: Path, times: int = 1) -> int:
    """Runs the allowed batch sizes that the warm-up requests of the version didn't, each `times` times.

    Returns the number of sizes that ran. Call it once, after the requests. A size that fails is logged: when a batch
    fails, its requests run one by one.
    """
    started = time.monotonic()
    what = f"model {servable.model!r} version {servable.version}"
    runs = [(call, inputs, size) for call in servable.end_warm_up() for inputs, size in _missing(call, what)]
    if len(runs) > MOST_RUNS:
        log.warning("%s: the warm-up runs %d of %d batch sizes, the limit", what, MOST_RUNS, len(runs))
    done = 0
    for number, (call, inputs, size) in enumerate(runs[:MOST_RUNS], 1):
        began = time.monotonic()
        error = _run(call, [_resized(array, size) for array in inputs], str(folder), times)
        took = time.monotonic() - began
        if error is not None:
            log.warning("%s: the warm-up of a batch of %d rows failed: %s", what, size, error.text)
            continue
        done += 1
        if took > LONG_SECONDS:
            log.info("%s: warm-up of batch size %d, %d of %d, took %.1f s", what, size, number, len(runs), took)
    if done:
        seconds = time.monotonic() - started
        log.info("%s: the warm-up ran %d batch size%s in %.1f s", what, done, "" if done == 1 else "s", seconds)
    return done


def _missing(call: BatchedCall, what: str) -> Iterator[tuple[Sequence[Array], int]]:
    """Yields inputs of each set of shapes that the warm-up used, with each allowed size that it didn't run.

    The sets are apart by the shapes of a row: where a length varies, each length is new to the GPU, too.
    """
    played, call.played = call.played or {}, None
    for inputs, rows in played.values():
        ran = {size for number in rows for size in _sizes(number, call.parameters)}
        for size in call.parameters.allowed_batch_sizes:
            needed = size * sum(map(row_bytes, inputs))
            if size in ran:
                continue
            if needed <= MOST_BYTES:
                yield inputs, size
            else:
                log.warning(
                    "%s: the warm-up leaves out batches of %d rows, whose inputs take %d bytes; the limit is %d",
                    what,
                    size,
                    needed,
                    MOST_BYTES,
                )


def _sizes(rows: int, parameters: Parameters) -> set[int]:
    """Returns the sizes at which a request of so many rows runs when it is alone."""
    most = parameters.largest
    return {parameters.size(part) for part in ((rows,) if rows <= most else (most, rows % most or most))}


def _resized(array: Array, rows: int) -> Array:
    return array[np.arange(rows) % len(array)]


def _run(call: BatchedCall, inputs: Sequence[Array], path: str, times: int) -> RequestError | None:
    """Runs a batch, not in the threads of other batches; returns why it failed, if it did."""
    for _ in range(times):
        started, status = time.monotonic(), "OK"
        try:
            call.alone(*inputs)
        except RequestError as error:
            status = error.code.name
            return error
        finally:
            metrics.WARMUP_LATENCY.observe((time.monotonic() - started) * 1e6, path, status)
    return None
