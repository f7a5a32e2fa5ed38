"""REST requests and responses as PredictionLog records, for the request log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfserving.foundation.tensors import Array, to_proto
from tfserving.serving.embedded.core.deep import Deep, write_shape
from tfserving.serving.embedded.core.example_messages import write_result
from tfserving.serving.embedded.core.examples import Classifications


def log_predict(signature: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array], record: Any) -> None:
    """Fills a record for a REST predict request."""
    part = record.predict_log
    for spec in (part.request.model_spec, part.response.model_spec):
        spec.CopyFrom(record.log_metadata.model_spec)
        spec.signature_name = signature
    part.request.model_spec.ClearField("version")
    for message, arrays in ((part.request.inputs, inputs), (part.response.outputs, outputs)):
        for name, array in arrays.items():
            message[name].CopyFrom(to_proto(array.ravel() if isinstance(array, Deep) else array))
            if isinstance(array, Deep):
                write_shape(message[name], array.shape)


def log_examples(
    signature: str, verb: str, examples: Sequence[bytes], result: Classifications | Array, record: Any
) -> None:
    """Fills a record for a REST classify or regress request."""
    part = record.classify_log if verb == "classify" else record.regress_log
    part.request.model_spec.name = part.response.model_spec.name = record.log_metadata.model_spec.name
    part.request.model_spec.signature_name = part.response.model_spec.signature_name = signature
    part.response.model_spec.version.CopyFrom(record.log_metadata.model_spec.version)
    for example in examples:
        part.request.input.example_list.examples.add().MergeFromString(example)
    write_result(part.response.result, result)


def size_of(*tensors: Mapping[str, Array]) -> int:
    """Returns the approximate size of the values of a request and its response, in bytes."""
    return sum(_size(array) for named in tensors for array in named.values())


def size_of_examples(examples: Sequence[bytes], result: Classifications | Array) -> int:
    """Returns the approximate size of the examples of a request and its response, in bytes."""
    arrays = (result.labels, result.scores) if isinstance(result, Classifications) else (result,)
    return sum(map(len, examples)) + sum(_size(array) for array in arrays if array is not None)


def _size(array: Array | Deep) -> int:
    flat = array.ravel()
    if flat.dtype == object:
        return sum(map(len, flat.tolist()))
    # A slice of a batch keeps the whole batch in memory.
    return max(flat.nbytes, getattr(array.base, "nbytes", 0)) if not isinstance(array, Deep) else flat.nbytes
