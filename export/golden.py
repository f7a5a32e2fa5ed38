"""Golden requests: example inputs with the answers that the live model gave, before anything was written.

They lie in the version's folder as TensorFlow Serving's own record (PredictionLog), with request and response; the
warm-up requests are the same without the responses, so a server has run every batch size of them before it says that
the version is available. https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clients.examples import read_examples
from clients.golden import RECORDS, GoldenRequest
from clients.messages import PredictionLog
from clients.tensors import BY_NAME, Array, to_proto
from export.errors import ServableError
from export.servable import EXAMPLES, Servable, Signature
from export.tolerances import describe, judge

# TensorFlow Serving looks for this name.
WARMUP = "assets.extra/tf_serving_warmup_requests"

# The rows of the examples that make a request each: the small ones do not overlap and all lie in the large one, so
# that every row is answered in two batches.
SMALL = (slice(0, 1), slice(1, 3), slice(3, 10))
LARGE = 32


def batch_of(request: GoldenRequest) -> int:
    """How many rows `request` has."""
    return len(next(iter(request.inputs.values())))


def golden_requests(servable: Servable) -> list[GoldenRequest]:
    """Asks the live model for batches of 1, 2, 7 and 32 rows (all, when there are fewer), for every signature.

    Raises ServableError for a signature that does not answer exactly its outputs with the batch first, that answers
    the same request differently the second time, or a row differently in another batch.
    """
    return [
        request
        for name, signature in servable.signatures.items()
        for request in _requests(name, signature, servable.examples[name])
    ]


def write_golden(requests: Iterable[GoldenRequest], model: str, version_folder: Path) -> None:
    """Writes golden and warm-up requests of model `model` into `version_folder`."""
    import tensorflow as tf

    (version_folder / RECORDS).parent.mkdir(exist_ok=True)
    with (
        tf.io.TFRecordWriter(str(version_folder / RECORDS)) as golden,
        tf.io.TFRecordWriter(str(version_folder / WARMUP)) as warmup,
    ):
        for request in requests:
            log = PredictionLog()
            entry = getattr(log, f"{request.method}_log")
            entry.request.model_spec.name = model
            entry.request.model_spec.signature_name = request.signature
            _write_inputs(entry.request, request)
            warmup.write(log.SerializeToString(deterministic=True))
            entry.response.model_spec.CopyFrom(entry.request.model_spec)
            _write_outputs(entry.response, request)
            golden.write(log.SerializeToString(deterministic=True))


def _write_inputs(message: Any, request: GoldenRequest) -> None:
    if request.method == "predict":
        for name, array in request.inputs.items():
            message.inputs[name].CopyFrom(to_proto(array))
    else:
        read_examples(request.inputs[EXAMPLES].tolist()).write(message.input)


def _write_outputs(message: Any, request: GoldenRequest) -> None:
    if request.method == "predict":
        for name, array in request.outputs.items():
            message.outputs[name].CopyFrom(to_proto(array))
    elif request.method == "regress":
        for value in request.outputs["outputs"].ravel().tolist():
            message.result.regressions.add(value=value)
    else:
        rows, classes = next(iter(request.outputs.values())).shape
        labels = request.outputs.get("classes", np.full((rows, classes), b"", np.object_))
        scores = request.outputs.get("scores", np.zeros((rows, classes), np.float32))
        for row_labels, row_scores in zip(labels.tolist(), scores.tolist(), strict=True):
            row = message.result.classifications.add()
            for label, score in zip(row_labels, row_scores, strict=True):
                row.classes.add(label=_label(request.signature, label), score=score)


def _label(signature: str, label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError:
        raise ServableError(
            f"signature {signature!r}, output 'classes' has the label {label!r}, not UTF-8: no client could read it"
        ) from None


def _requests(name: str, signature: Signature, examples: Mapping[str, Array]) -> Iterator[GoldenRequest]:
    def ask(rows: slice) -> GoldenRequest:
        inputs = {input_name: _wire_array(array[rows]) for input_name, array in examples.items()}
        return GoldenRequest(name, inputs, _answer(name, signature, inputs), signature.method)

    large = ask(slice(0, LARGE))
    _require_equal(
        large,
        ask(slice(0, LARGE)),
        "the same request is answered differently the second time",
        "an answer can't depend on random numbers or on what Python code remembers",
    )
    for rows in SMALL:
        small = ask(rows)
        _require_equal(
            GoldenRequest(name, small.inputs, {output: array[rows] for output, array in large.outputs.items()}),
            small,
            f"the examples' rows {rows.start} to {rows.stop - 1} are answered differently in a batch of "
            f"{batch_of(small)} and in one of {batch_of(large)}",
            "servers put requests together, so a row's answer can't depend on the other rows",
        )
        yield small
    yield large


def _require_equal(expected: GoldenRequest, answered: GoldenRequest, what: str, why: str) -> None:
    for output, array in expected.outputs.items():
        difference = judge(answered.outputs[output], array)
        if difference.verdict == "different":
            raise ServableError(
                f"signature {expected.signature!r}, output {output!r}: {what}: {describe(difference)}; {why}"
            )


def _answer(name: str, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the live model answers to `inputs`, as numpy arrays."""
    import tensorflow as tf

    where = f"signature {name!r}"
    batch = len(next(iter(inputs.values())))
    tensors = {
        input_name: tf.constant(array, dtype=signature.inputs[input_name].dtype) for input_name, array in inputs.items()
    }
    try:
        outputs = signature.function(**tensors)
    except Exception as error:
        raise ServableError(
            f"{where}: its function failed on {batch} rows of its examples: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(outputs, Mapping):
        raise ServableError(
            f"{where}: its function returns a {type(outputs).__name__}, a dict with "
            f"{_list(signature.outputs)} is wanted"
        )
    if set(outputs) != set(signature.outputs):
        raise ServableError(
            f"{where}: its function answers the outputs {_list(outputs)}, declared are {_list(signature.outputs)}"
        )
    return {
        output: _output_array(f"{where}, output {output!r}", outputs[output], batch) for output in signature.outputs
    }


def _output_array(where: str, value: Any, batch: int) -> Array:
    import tensorflow as tf

    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ServableError(f"{where} is a {type(value).__name__}, only dense tensors can be served") from None
    if tensor.dtype.name not in BY_NAME:
        raise ServableError(f"{where} is of {tensor.dtype.name}, which no client can read; cast it")
    array = np.asarray(tensor.numpy())
    if array.shape[:1] != (batch,):
        raise ServableError(f"{where} has shape {array.shape} for {batch} rows; the batch must come first")
    return _wire_array(array)


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def _wire_array(array: Array) -> Array:
    """`array` as it comes back from the wire: strings as an object array of bytes."""
    if array.dtype.kind not in "SUO":
        return array
    as_bytes = np.empty(array.shape, np.object_)
    as_bytes.ravel()[:] = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    return as_bytes
