"""REST responses, in the layout of TensorFlow Serving."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict

from tfserving.foundation.tensors import Array, dtype_of
from tfserving.serving.embedded.core.examples import Classifications
from tfserving.serving.embedded.core.signature import runtime_name
from tfserving.serving.embedded.core.view import Status
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.http import RefusedError, Response
from tfserving.serving.embedded.rest.json_text import float_texts, quote

# A string output whose name ends with this is returned in base64.
BASE64_SUFFIX = "_bytes"
INDENT = b"    "
# An error text contains names and values from the request. TensorFlow Serving has no limit; its texts are shorter.
LONGEST_ERROR = 2**14
# The number of elements that are converted to text at a time.
BLOCK = 2**14
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def error(text: str) -> bytes:
    """Returns the body of an error. A text that is too long is cut, as over gRPC, where the limit is 1024."""
    if len(text) > LONGEST_ERROR:
        text = text[:LONGEST_ERROR] + "...TRUNCATED"
    return b'{\n    "error": ' + quote(text) + b"\n}"


def refusal(reason: RefusedError) -> Response:
    """Returns the response to a refused request."""
    return reason.page or Response(reason.status, error(reason.text))


def columns(outputs: Mapping[str, Array]) -> bytes:
    """Returns the columnar format: one value under `outputs`, or an object of several by name."""
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return b'{\n    "outputs": ' + _indented(name, array, 1) + b"\n}"
    members = [quote(name) + b": " + _indented(name, array, 2) for name, array in outputs.items()]
    inner = b"\n" + INDENT * 2
    return b'{\n    "outputs": {' + inner + (b"," + inner).join(members) + b"\n    }\n}"


def rows(outputs: Mapping[str, Array]) -> bytes:
    """Returns the row format: a list under `predictions`, of plain values or of objects with several outputs.

    Raises RequestError for an output without a batch dimension, or with a batch size that differs from the others.
    """
    batch = _batch_size(outputs)
    if not batch:
        return b'{\n    "predictions": []\n}'
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return b'{\n    "predictions": [' + _row_list(name, array, 2) + b"\n    ]\n}"
    outer = b"\n" + INDENT * 2
    size = sum(array.size for array in outputs.values())
    if size <= BLOCK:
        return b'{\n    "predictions": [' + outer + _named_rows(outputs) + b"\n    ]\n}"
    step = _step(size // batch)
    pieces = (
        _named_rows({name: array[at : at + step] for name, array in outputs.items()}) for at in range(0, batch, step)
    )
    return b'{\n    "predictions": [' + outer + (b"," + outer).join(pieces) + b"\n    ]\n}"


def classifications(result: Classifications) -> bytes:
    """Returns the response of classify: for each example a list of classes, label and score."""
    scores = iter(float_texts(np.array([score for row in result.rows() for _, score in row], np.float32)))
    texts = (
        b"[" + b", ".join(b"[" + quote(label) + b", " + next(scores) + b"]" for label, _ in row) + b"]"
        for row in result.rows()
    )
    return b'{\n    "results": [' + b", ".join(texts) + b"\n    ]\n}"


def regressions(result: Array) -> bytes:
    """Returns the response of regress: a value for each example."""
    return b'{\n    "results": [' + b", ".join(float_texts(result)) + b"]\n}"


def statuses(found: Iterable[Status], *, explain: bool) -> bytes:
    """Returns the status of versions, as protobuf's JSON."""
    entries = [
        {
            "version": str(status.version),
            "state": status.state.name,
            "status": {
                "error_code": status.error.code.name if status.error else "OK",
                "error_message": status.error.client_text(explain=explain) if status.error else "",
            },
        }
        for status in found
    ]
    return _proto_json({"model_version_status": entries})


def models(available: Mapping[str, list[int]]) -> bytes:
    """Returns all models with their available versions. TensorFlow Serving has no such list."""
    listed = [{"name": name, "versions": [str(number) for number in versions]} for name, versions in available.items()]
    return _proto_json({"models": listed})


def metadata(model: str, version: int, definitions: Any) -> bytes:
    """Returns a version's signatures, a SignatureDefMap, as protobuf's JSON."""
    spec = {"name": model, "version": str(version), "signature_name": ""}
    signatures = MessageToDict(definitions, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return (
        b'{\n"model_spec":'
        + _proto_json(spec)
        + b',\n"metadata": {"signature_def": '
        + _proto_json(signatures)
        + b"}\n}\n"
    )


def _proto_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def _batch_size(outputs: Mapping[str, Array]) -> int:
    batch: int | None = None
    for name, array in outputs.items():
        if not array.shape:
            raise RequestError(Code.INVALID_ARGUMENT, f"Tensor name: {name} has no shape information ")
        if batch is None:
            batch = array.shape[0]
        elif array.shape[0] != batch:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {batch}",
            )
    return batch or 0


def _step(size: int) -> int:
    """Returns the number of rows of `size` elements that are converted to text at a time."""
    return max(1, BLOCK // max(1, size))


def _named_rows(outputs: Mapping[str, Array]) -> bytes:
    """Returns the rows of several outputs, each an object."""
    texts = [[quote(name) + b": " + text for text in _row_texts(name, array, 3)] for name, array in outputs.items()]
    inner, outer = b"\n" + INDENT * 3, b"\n" + INDENT * 2
    objects = (b"{" + inner + (b"," + inner).join(members) + outer + b"}" for members in zip(*texts, strict=True))
    return (b"," + outer).join(objects)


def _row_list(name: str, array: Array, level: int) -> bytes:
    """Returns the texts of the rows, joined by commas. `level` is the indentation level of the rows."""
    if not _large(array):
        return b", ".join(_row_texts(name, array, level))
    step = _step(array.size // len(array))
    return b", ".join(b", ".join(_row_texts(name, array[at : at + step], level)) for at in range(0, len(array), step))


def _large(array: Array) -> bool:
    """Returns whether an array is converted in parts: the texts of all elements would take many times its size."""
    return array.size > BLOCK and isinstance(array, np.ndarray)


def _row_texts(name: str, array: Array, level: int) -> list[bytes]:
    """Returns the text of each row, arrays on one line. `level` is the indentation level of the rows."""
    if _large(array) and array.size > BLOCK * len(array):
        return [b"[" + _row_list(name, row, level + 1) + b"]" for row in array]
    texts = _element_texts(name, array, level + array.ndim - 1)
    for depth in range(array.ndim - 1, 0, -1):
        texts = [b"[" + b", ".join(group) + b"]" for group in _groups(texts, array.shape, depth)]
    return texts


def _indented(name: str, array: Array, level: int) -> bytes:
    """Returns the text of a whole tensor at indentation level `level`, one element a line."""
    if _large(array):
        inner, outer = b"\n" + INDENT * (level + 1), b"\n" + INDENT * level
        if array.size > BLOCK * len(array):
            texts = [_indented(name, row, level + 1) for row in array]
        else:
            step = _step(array.size // len(array))
            texts = [_indented(name, array[at : at + step], level) for at in range(0, len(array), step)]
            # Without the brackets of each part.
            texts = [text[len(inner) + 1 : -len(outer) - 1] for text in texts]
        return b"[" + inner + (b"," + inner).join(texts) + outer + b"]"
    texts = _element_texts(name, array, level + array.ndim)
    for depth in range(array.ndim - 1, -1, -1):
        inner, outer = b"\n" + INDENT * (level + depth + 1), b"\n" + INDENT * (level + depth)
        texts = [
            b"[" + inner + (b"," + inner).join(group) + outer + b"]" if group else b"[]"
            for group in _groups(texts, array.shape, depth)
        ]
    return texts[0]


def _groups(texts: list[bytes], shape: tuple[int, ...], depth: int) -> Iterable[list[bytes]]:
    """Groups `texts` into the arrays of dimension `depth`."""
    size = shape[depth]
    return (texts[index * size : (index + 1) * size] for index in range(prod(shape[:depth])))


def _element_texts(name: str, array: Array, level: int) -> list[bytes]:
    if array.dtype in _FLOATS:
        return float_texts(array)
    if array.dtype.kind == "O":
        return [_string(name, value, level) for value in array.ravel().tolist()]
    if array.dtype.kind == "b":
        return [b"true" if value else b"false" for value in array.ravel().tolist()]
    if array.dtype.kind in "iu":
        return [b"%d" % value for value in array.ravel().tolist()]
    if not array.size:
        return []
    raise RequestError(
        Code.INVALID_ARGUMENT,
        f"Serializing value of type: {runtime_name(dtype_of(array))} is not supported",
        f"output {name!r} has a type without a JSON format; use gRPC",
    )


def _string(name: str, value: bytes, level: int) -> bytes:
    if not name.endswith(BASE64_SUFFIX):
        return quote(value)
    inner, outer = b"\n" + INDENT * (level + 1), b"\n" + INDENT * level
    return b"{" + inner + b'"b64": "' + base64.b64encode(value) + b'"' + outer + b"}"
