"""Parsers of REST responses. They are strict: a value of a wrong type is a ValueError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving.clients.results import Metadata, Signature, TensorInfo, VersionStatus, read_shape
from tfserving.foundation.tensors import BY_WIRE_NAME, Array, from_numbers

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_QUOTED_CHARACTERS = 60


def read_metadata(response: Any, model: str) -> Metadata:
    """Return the signatures in the response to a metadata request."""
    definitions = _mapping(_field(response, "metadata", "signature_def", "signature_def"), "signature_def")
    return Metadata(
        model=model,
        version=_integer(_field(response, "model_spec", "version"), "version"),
        signatures={name: _signature(definition) for name, definition in definitions.items()},
    )


def read_status(response: Any) -> list[VersionStatus]:
    """Return the versions in the response to a status request."""
    return [
        VersionStatus(
            version=_integer(_field(status, "version"), "version"),
            state=_text(_field(status, "state"), "state"),
            code=_text(_field(status, "status", "error_code"), "error_code"),
            message=_text(_field(status, "status", "error_message"), "error_message"),
        )
        for status in _list(_field(response, "model_version_status"), "model_version_status")
    ]


def read_classes(response: Any) -> list[list[tuple[str, float]]]:
    """Return the labels and scores of each example in the response to classify."""
    return [
        [_class(pair) for pair in _list(row, "a row of 'results'")]
        for row in _list(_field(response, "results"), "'results'")
    ]


def read_values(response: Any) -> Array:
    """Return the value of each example in the response to regress, float32."""
    values = from_numbers(_list(_field(response, "results"), "'results'"))
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iuf"):
        raise ValueError("'results' is not a list of numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _class(pair: Any) -> tuple[str, float]:
    if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004 - a label and its score
        raise ValueError(f"a class must be a label and a score, got {_quoted(pair)}")
    label, score = pair
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise ValueError(f"a score must be a number, got {_quoted(score)}")
    try:
        return _text(label, "a label"), float(score)
    except OverflowError:
        raise ValueError("a score is larger than any float") from None


def _signature(definition: Any) -> Signature:
    inputs, outputs = (_mapping(_field(definition, field), field) for field in ("inputs", "outputs"))
    defaults = definition.get("defaults")
    return Signature(
        method=_text(_field(definition, "method_name"), "method_name"),
        inputs={name: _info(info) for name, info in sorted(inputs.items())},
        outputs={name: _info(info) for name, info in sorted(outputs.items())},
        optional=frozenset(() if defaults is None else _mapping(defaults, "defaults")),
    )


def _info(info: Any) -> TensorInfo:
    wire_name = _text(_field(info, "dtype"), "dtype")
    if "composite_tensor" in info:
        # A ragged tensor, which has neither, and which no request or response can carry.
        return TensorInfo(wire_name.removeprefix("DT_").lower(), None)
    unknown = _field(info, "tensor_shape", "unknown_rank")
    if not isinstance(unknown, bool):
        raise ValueError(f"unknown_rank must be true or false, got {_quoted(unknown)}")
    sizes = [_integer(_field(dim, "size"), "size") for dim in _list(_field(info, "tensor_shape", "dim"), "dim")]
    return TensorInfo(
        dtype=BY_WIRE_NAME[wire_name].name if wire_name in BY_WIRE_NAME else wire_name.removeprefix("DT_").lower(),
        shape=None if unknown else read_shape(sizes),
    )


def _field(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{_quoted(value)} lacks {name!r}")
        value = value[name]
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, got {_quoted(value)}")
    return value


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, got {_quoted(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string, got {_quoted(value)}")
    return value


def _integer(value: Any, what: str) -> int:
    """Return an int64. In JSON it is a number or a string, since JSON numbers are often read as floats."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{what} must be a 64-bit integer, got {_quoted(value)}")
    return value


def _quoted(value: Any) -> str:
    """Return a short text of `value`, which may be large or deeply nested."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:  # noqa: PLR2004 - Python writes no more than 4300 digits
        return f"an integer of {value.bit_length()} bits"
    return repr(value[:_QUOTED_CHARACTERS] if isinstance(value, str) else value)
