"""Converts a JSON value to an array.

numpy converts regular values at once. Other values, and those that numpy would convert too leniently, are read element
by element, as in TensorFlow Serving, for an exact error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from tfserving.foundation.tensors import STRING, Array, DType
from tfserving.serving.embedded.core.deep import NUMPYS_MOST, Deep
from tfserving.serving.embedded.core.signature import TensorSpec, runtime_name
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.json_parser import Members
from tfserving.serving.embedded.rest.json_text import TINY, flush_denormals, show

_FLOATS = ("float32", "float64")
_LARGEST = {name: float(np.finfo(name).max) for name in _FLOATS}
_LISTS, _ONLY_FLOATS = {list}, {float}
# Up to this many numbers Python is faster than numpy.
_FEW = 256
# TensorFlow Serving reads these as 32-bit integers, so they wrap.
_NARROW = ("int8", "int16", "uint8")
_INTEGERS = {"int32": (-(2**31), 2**31), "int64": (-(2**63), 2**63), "uint32": (0, 2**32), "uint64": (0, 2**64)}
_INTEGERS.update(dict.fromkeys(_NARROW, _INTEGERS["int32"]))

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_WHITE = re.compile(r"[ \t\n\v\f\r]")


def read_tensor(name: str, value: Any, spec: TensorSpec, most_nested: int = 0) -> Array:
    """Converts `value` to the array of the input `name`. It can be nested in `most_nested` arrays; 0: any number.

    Raises RequestError: INVALID_ARGUMENT, or UNIMPLEMENTED for an element type without a JSON format.
    """
    array = read_regular(value, spec.dtype)
    return array if array is not None else _read_each(name, value, spec, most_nested)


def read_regular(value: Any, dtype: DType | None) -> Array | None:
    """Converts `value` with numpy, if the result is exactly right; else returns None."""
    if dtype is None or dtype is STRING or not isinstance(value, list):
        return None
    try:
        few = _read_few(value, dtype)
        if few is not None:
            return few
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    if dtype.name == "bool":
        return array if array.dtype.kind == "b" else None
    # numpy converts booleans among numbers to numbers.
    if array.dtype.kind not in "iuf" or _has_booleans(value):
        return None
    return convert(array, dtype)


def _read_few(value: list[Any], dtype: DType) -> Array | None:
    """Converts a few floats that are all in the range of `dtype`, in a third of the time; else returns None.

    Raises ValueError when numpy can't convert them.
    """
    tiny = TINY.get(dtype.numpy) if dtype.name in _FLOATS else None
    if tiny is None:
        return None
    flat = value
    while flat and type(flat[0]) is list and len(flat) <= _FEW:
        if set(map(type, flat)) != _LISTS:
            return None
        flat = list(chain.from_iterable(flat))
    if len(flat) > _FEW or set(map(type, flat)) != _ONLY_FLOATS:
        return None
    sizes = list(map(abs, flat))
    if max(sizes) > _LARGEST[dtype.name] or min(filter(None, sizes), default=1.0) < tiny:
        return None
    return np.array(value, dtype.numpy)


def is_base64(value: Any) -> bool:
    """Returns whether `value` is `{"b64": "..."}`, an encoded string."""
    if not isinstance(value, dict) or len(value) != 1 or not isinstance(value.get("b64"), (str, bytes)):
        return False
    return not isinstance(value, Members) or len(value.all) == 1


def read_base64(value: dict[Any, Any]) -> bytes:
    """Returns the bytes of `{"b64": "..."}`. Raises RequestError INVALID_ARGUMENT for anything else."""
    if not is_base64(value):
        raise _invalid(f"JSON Value: {show(value)} not formatted correctly for base64 data")
    text = value["b64"]
    text = _WHITE.sub("", text) if isinstance(text, str) else "!"
    if not _BASE64.fullmatch(text) or (text.endswith("=") and len(text) % 4):
        raise _invalid("Unable to base64 decode")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise _invalid("Unable to base64 decode") from None


def expectation(name: str, spec: TensorSpec) -> str:
    """Describes the expected input, for an error."""
    return f"expected {spec} for inputs[{name!r}]"


def convert(array: Array, dtype: DType) -> Array | None:
    """Converts numbers from JSON to `dtype`; returns None when one is out of its range."""
    if dtype.name in _FLOATS:
        with np.errstate(over="ignore"):
            return flush_denormals(array.astype(dtype.numpy))
    if dtype.name not in _INTEGERS:
        return None
    if array.size:
        low, high = _INTEGERS[dtype.name]
        if array.dtype.kind == "f" or int(array.min()) < low or int(array.max()) >= high:
            return None
    return array.astype(dtype.numpy)


def _has_booleans(value: list[Any]) -> bool:
    while value and isinstance(value[0], list):
        value = list(chain.from_iterable(value))
    return bool in map(type, value)


def _read_each(name: str, value: Any, spec: TensorSpec, most_nested: int) -> Any:
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    # Values that numpy converts are never that deep.
    if 0 < most_nested < len(shape):
        raise _invalid(f"inputs[{name!r}] is nested in {len(shape)} arrays; at most {most_nested} are allowed")
    values = [_element(name, item, spec) for item in _leaves(name, value, shape, spec)]
    dtype = spec.dtype.numpy if spec.dtype else np.dtype(object)
    array = np.empty(len(values), dtype)
    with np.errstate(over="ignore"):
        # Narrow integers wrap. numpy does that for a wider array, but not for a Python int.
        array[:] = np.array(values, np.int64) if spec.dtype and spec.dtype.name in _NARROW else values
    if len(shape) > NUMPYS_MOST:
        return Deep(flush_denormals(array), tuple(shape))
    return flush_denormals(array).reshape(shape)


def _leaves(name: str, value: Any, shape: list[int], spec: TensorSpec) -> Iterator[Any]:
    """Yields the scalars of `value`, and checks that all are at the depth of `shape`."""
    waiting = [(value, 0)]
    while waiting:
        item, level = waiting.pop()
        if isinstance(item, list):
            if level >= len(shape):
                text = f"Encountered list at unexpected level: {level} expected < {len(shape)}"
                raise _invalid(text, expectation(name, spec))
            if len(item) != shape[level]:
                text = f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: "
                raise _invalid(f"{text}{shape[level]}", expectation(name, spec))
            waiting.extend((element, level + 1) for element in reversed(item))
        elif level != len(shape):
            text = f"JSON Value: {show(item)} found at incorrect level: {level + 1} in the JSON DOM. "
            raise _invalid(f"{text}Expected at level: {len(shape)}", expectation(name, spec))
        else:
            yield item


def _element(name: str, value: Any, spec: TensorSpec) -> Any:
    """Returns one scalar of a tensor, checked against its type."""
    dtype = spec.dtype
    if dtype is STRING and isinstance(value, (str, bytes)):
        return value.encode() if isinstance(value, str) else value
    if dtype is STRING and isinstance(value, dict):
        return read_base64(value)
    if not isinstance(value, dict) and not _carried(dtype):
        text = f"Conversion of JSON Value: {show(value)} to type: {runtime_name(dtype)}"
        raise RequestError(Code.UNIMPLEMENTED, text, expectation(name, spec))
    if dtype is None or not _fits(value, dtype):
        text = f"JSON Value: {show(value)} Type: {_json_type(value)} is not of expected type: {runtime_name(dtype)}"
        raise _invalid(text, expectation(name, spec))
    return value


def _carried(dtype: DType | None) -> bool:
    """Returns whether `dtype` has a JSON format. half, bfloat16, uint16 and complex have none."""
    return dtype is not None and (dtype.name in (*_FLOATS, "bool", "string") or dtype.name in _INTEGERS)


def _fits(value: Any, dtype: DType) -> bool:
    if isinstance(value, bool):
        return dtype.name == "bool"
    if dtype.name in _FLOATS:
        return isinstance(value, (int, float))
    if dtype.name in _INTEGERS and isinstance(value, int):
        low, high = _INTEGERS[dtype.name]
        return low <= value < high
    return False


def _json_type(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        return "Number"
    return "Object" if isinstance(value, dict) else "String"


def _invalid(text: str, explanation: str = "") -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, text, explanation)
