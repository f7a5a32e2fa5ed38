"""What REST's answers say, read strictly: whatever has another type than it should is a ValueError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving.clients.answers import Metadata, Signature, TensorInfo, VersionStatus, read_shape
from tfserving.foundation.tensors import BY_WIRE_NAME, Array, from_numbers

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_QUOTED_CHARACTERS = 60


def read_metadata(answer: Any, model: str) -> Metadata:
    """The signatures in the answer about a model's metadata."""
    definitions = _mapping(_field(answer, "metadata", "signature_def", "signature_def"), "signature_def")
    return Metadata(
        model=model,
        version=_integer(_field(answer, "model_spec", "version"), "version"),
        signatures={name: _signature(definition) for name, definition in definitions.items()},
    )


def read_status(answer: Any) -> list[VersionStatus]:
    """The versions in the answer about a model's status."""
    return [
        VersionStatus(
            version=_integer(_field(status, "version"), "version"),
            state=_text(_field(status, "state"), "state"),
            code=_text(_field(status, "status", "error_code"), "error_code"),
            message=_text(_field(status, "status", "error_message"), "error_message"),
        )
        for status in _list(_field(answer, "model_version_status"), "model_version_status")
    ]


def read_classes(answer: Any) -> list[list[tuple[str, float]]]:
    """The labels and scores of each example in the answer to classify."""
    return [
        [_class(pair) for pair in _list(row, "a row of 'results'")]
        for row in _list(_field(answer, "results"), "'results'")
    ]


def read_values(answer: Any) -> Array:
    """The value of each example in the answer to regress, float32."""
    values = from_numbers(_list(_field(answer, "results"), "'results'"))
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iuf"):
        raise ValueError("'results' is no list of numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _class(pair: Any) -> tuple[str, float]:
    if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004 - a label and its score
        raise ValueError(f"a class is a label and a score, not {_quoted(pair)}")
    label, score = pair
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise ValueError(f"a score is a number, not {_quoted(score)}")
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
        # A ragged tensor, which has neither, and which no request or answer can carry.
        return TensorInfo(wire_name.removeprefix("DT_").lower(), None)
    unknown = _field(info, "tensor_shape", "unknown_rank")
    if not isinstance(unknown, bool):
        raise ValueError(f"unknown_rank is {_quoted(unknown)}, not true or false")
    sizes = [_integer(_field(dim, "size"), "size") for dim in _list(_field(info, "tensor_shape", "dim"), "dim")]
    return TensorInfo(
        dtype=BY_WIRE_NAME[wire_name].name if wire_name in BY_WIRE_NAME else wire_name.removeprefix("DT_").lower(),
        shape=None if unknown else read_shape(sizes),
    )


def _field(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"there is no {name!r} in {_quoted(value)}")
        value = value[name]
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is {_quoted(value)}, not a list")
    return value


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_quoted(value)}, not an object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is {_quoted(value)}, not a string")
    return value


def _integer(value: Any, what: str) -> int:
    """An int64, which JSON has as a number or, since its numbers are often floats, as a string."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{what} is {_quoted(value)}, not an integer of 64 bits")
    return value


def _quoted(value: Any) -> str:
    """The beginning of `value`, of which an answer may have a lot; no deeper than it can be written."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:  # noqa: PLR2004 - Python writes no more than 4300 digits
        return f"an integer of {value.bit_length()} bits"
    return repr(value[:_QUOTED_CHARACTERS] if isinstance(value, str) else value)
