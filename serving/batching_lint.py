"""Problems of batching: parameters that contradict each other, and warm-up requests that don't match them.

TensorFlow Serving replays the warm-up file through the batching session (`saved_model_bundle_source_adapter.cc` of
https://github.com/tensorflow/serving): a request that is larger than a batch fails the load, and the others are padded
to the allowed sizes, as clients' requests are. So on a GPU a size that no warm-up request fills is slow once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from tfserving.foundation.batch_sizes import THREADS_ON_A_GPU
from tfserving.foundation.golden import WARMUP
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import RecordError, read_records
from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.gpu_batching import ENQUEUED, batching_on_a_gpu
from tfserving.serving.models_yaml.server import Batching
from tfserving.serving.problem import Problem

# With this flag TensorFlow Serving batches only versions that have this file.
OWN_BATCHING = "enable_per_model_batching_parameters"
BATCHING_PARAMETERS = "batching_params.pbtxt"
_COST = "cuDNN measures its algorithms (0.2 to 0.5 s for ResNet50 on an H200), and XLA compiles (7 to 13 s)"
_NUMBERS = ("max_batch_size", "max_enqueued_batches", "enable_large_batch_splitting", "max_execution_batch_size")
# The requests of a record, by the kind of call.
_EXAMPLES = ("classify_log", "regress_log")


def parameter_problems(where: str, given: Batching, *, gpu: bool, embedded: bool = False) -> Iterator[Problem]:
    """Yield the problems of parameters under the key `where`, on a server with or without a GPU."""
    batching = batching_on_a_gpu(given, embedded=False) if gpu else given
    sizes = list(batching.allowed_batch_sizes or ())
    largest = batching.max_batch_size
    if batching.enable_large_batch_splitting and batching.max_execution_batch_size:
        largest = batching.max_execution_batch_size
    if largest > batching.max_batch_size:
        yield Problem(where, f"max_execution_batch_size {largest} is above max_batch_size {batching.max_batch_size}")
    if sizes != sorted(set(sizes)):
        yield Problem(where, f"allowed_batch_sizes: got {sizes}, expected increasing sizes: {sorted(set(sizes))}")
    elif sizes and sizes[-1] != largest:
        yield Problem(where, f"allowed_batch_sizes {sizes} must end with the maximum, {largest}")
    enqueued = batching.max_enqueued_batches or ENQUEUED
    # One more batch may be open. The embedded server counts batches before they are split.
    if not embedded and largest < batching.max_batch_size and (enqueued + 1) * largest < batching.max_batch_size:
        text = f"{enqueued} batches of {largest} rows may wait, so TensorFlow Serving always refuses a request of "
        text += f"{batching.max_batch_size} rows. Raise max_enqueued_batches, or lower max_batch_size"
        yield Problem(where, text, warning=True)
    # The embedded server uses sizes in any case.
    if gpu and not sizes and not embedded:
        text = f"batches have any size, and on a GPU each new size is slow once: {_COST}. List sizes in"
        text += " allowed_batch_sizes. Without this key, server.batching has powers of two"
        yield Problem(where, text, warning=True)
    threads = given.num_batch_threads or 0
    if gpu and threads > THREADS_ON_A_GPU:
        expected = f"num_batch_threads: got {threads}, expected 1 or {THREADS_ON_A_GPU} on a GPU."
        why = "More threads run smaller batches, and the GPU computes them one after another"
        yield Problem(where, f"{expected} {why}", warning=True)


def warmup_problems(
    where: str, version: int, folder: Path, batching: Batching, alone: Collection[str], *, gpu: bool
) -> Iterator[Problem]:
    """Yield the problems of the warm-up requests of a version in `folder`, on a server with these parameters.

    Signatures `alone` have no batch dimension. Their first dimension may be the length of a recording. With `gpu` it is
    TensorFlow Serving on a GPU; the embedded server itself runs the sizes that the file lacks.
    """
    try:
        rows = sorted({*_rows(folder / WARMUP, alone)})
    except (RecordError, DecodeError) as error:
        yield Problem(where, f"version {version}: the warm-up requests can't be read: {error}")
        return
    if rows and rows[-1] > batching.max_batch_size:
        text = f"version {version} has a warm-up request of {rows[-1]} rows, but max_batch_size is"
        yield Problem(where, f"{text} {batching.max_batch_size}. Raise it")
        return
    if gpu and rows:
        yield from _cold(where, version, rows, batching)


def own_problems(
    where: str, version: int, folder: Path, _batching: Batching, alone: Collection[str], *, gpu: bool
) -> Iterator[Problem]:
    """Yield the problems of a version on a server with the flag OWN_BATCHING. See `warmup_problems`.

    The version has parameters of its own, without other defaults on a GPU, or it isn't batched.
    """
    path = folder / BATCHING_PARAMETERS
    if not path.is_file():
        return
    try:
        message = read_message("BatchingParameters", path, f"version {version}")
        given = {name: getattr(message, name).value for name in _NUMBERS if message.HasField(name)}
        own = Batching.model_validate({**given, "allowed_batch_sizes": tuple(message.allowed_batch_sizes)})
    except (StartError, ValueError) as error:
        yield Problem(where, f"{path}: {error}")
        return
    for problem in parameter_problems(where, own, gpu=gpu):
        yield dataclasses.replace(problem, text=f"{BATCHING_PARAMETERS} of version {version}: {problem.text}")
    yield from warmup_problems(where, version, folder, own, alone, gpu=gpu)


def _cold(where: str, version: int, rows: Iterable[int], given: Batching) -> Iterator[Problem]:
    """Yield a warning if clients send the first batch of a size."""
    sizes = batching_on_a_gpu(given, embedded=False).allowed_batch_sizes or ()
    warm = {size for count in rows for size in _sizes(count, sizes)}
    cold = [size for size in sizes if size not in warm]
    if not cold:
        return
    listed = ", ".join(map(str, cold))
    first = "the first batch of this size" if len(cold) == 1 else "the first batch of each of these sizes"
    text = (
        f"version {version} has no warm-up request for batches of {listed} rows, so {first} is slow on a GPU: {_COST}."
    )
    text += f" Export it with `batch_sizes: [{cold[-1]}]`"
    splits = given.allowed_batch_sizes is None and given.enable_large_batch_splitting is not False
    if splits and cold[0] > max(warm):
        text += f", or set server.batching.max_execution_batch_size to {max(warm)}"
    yield Problem(where, text, warning=True)


def _sizes(rows: int, sizes: tuple[int, ...]) -> Iterator[int]:
    """Yield the sizes of the batches that a request of `rows` rows becomes: parts of the largest size, and the rest."""
    if not sizes or not rows:
        return
    if rows > sizes[-1]:
        yield sizes[-1]
    rest = rows % sizes[-1] or sizes[-1]
    yield next(size for size in sizes if size >= rest)


def _rows(warmup: Path, alone: Collection[str]) -> Iterator[int]:
    """Yield the rows of each warm-up request of a signature that isn't `alone`."""
    for record in read_records(warmup):
        log = PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        if kind == "predict_log" and log.predict_log.request.model_spec.signature_name not in alone:
            shapes = (tensor.tensor_shape.dim for tensor in log.predict_log.request.inputs.values())
            yield from (dim[0].size for dim in shapes if dim)
        elif kind in _EXAMPLES:
            given = getattr(log, kind).request.input
            yield len(getattr(given, given.WhichOneof("kind") or "example_list").examples)
