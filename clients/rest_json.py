"""The JSON of TensorFlow Serving's REST API: requests from arrays, arrays from responses.

JSON has no dtypes. The signature defines the dtypes of a request's and of a response's numbers.
https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from math import isinf
from typing import Any

import numpy as np
import orjson

from tfserving.clients.printable import shortened
from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.examples import Examples
from tfserving.foundation.tensors import BY_NAME, STRING, Array, DType, dtype_of, from_numbers

_QUOTED_CHARACTERS = 40


class MisfitError(ValueError):
    """A response doesn't match its signature; it may come from another version."""


def predict_request(signature_name: str, arrays: Mapping[str, Array]) -> bytes:
    """Return the body of a columnar predict request.

    Raises TypeError for complex numbers, which the API cannot carry.
    """
    inputs = {name: _json_value(name, array) for name, array in arrays.items()}
    return orjson.dumps({"signature_name": signature_name, "inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)


def examples_request(signature_name: str, examples: Examples) -> bytes:
    """Return the body of a classify or regress request. Its floats are text that parses to the same float32."""
    # The standard library writes NaN and Infinity, orjson would write null.
    return json.dumps({"signature_name": signature_name, **examples.json()}).encode()


def parse_request(text: str | bytes) -> Any:
    """Return the value of a request's JSON; bare NaN, Infinity and -Infinity are floats, as in TensorFlow Serving.

    Raises ValueError for text that isn't JSON, and for a number that exceeds 64-bit floats, which TensorFlow Serving
    rejects too.
    """
    return json.loads(text, parse_float=_finite, parse_int=_integer)


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"the number {shortened(text, _QUOTED_CHARACTERS)} exceeds the range of 64-bit floats")
    return number


def _integer(text: str) -> int:
    _finite(text)
    return int(text)


def parse(body: bytes) -> Any:
    """Return the value of a JSON response. Bare NaN and Infinity become floats, bytes that aren't UTF-8 surrogates.

    Raises ValueError for a body that is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Strict JSON has neither NaN nor broken UTF-8, TensorFlow Serving writes both.
        return json.loads(body.decode("utf-8", "surrogateescape"), parse_float=_finite, parse_int=_integer)


def outputs_of(response: Any, signature: Signature, *, shapes: bool = True) -> dict[str, Array]:
    """Return the arrays in a parsed columnar response, with the dtypes of the outputs in `signature`.

    Raises MisfitError for other names, for values that are not of these dtypes, and, with `shapes`, for other shapes
    than the signature's. (A graph may accept inputs of other shapes, and return outputs of other shapes.)
    """
    if not isinstance(response, dict) or "outputs" not in response:
        raise MisfitError("it lacks 'outputs'")
    value, infos = response["outputs"], signature.outputs
    if len(infos) == 1:
        # A single output has no name.
        value = dict.fromkeys(infos, value)
    if not isinstance(value, dict) or set(value) != set(infos):
        got = ", ".join(sorted(value)) if isinstance(value, dict) else "a value without a name"
        raise MisfitError(f"got {got}, expected the outputs {', '.join(infos)}")
    return {name: _output(name, value[name], infos[name], shapes) for name in sorted(infos)}


def unpack_bytes(value: Any) -> Any:
    """Return `value` with every `{"b64": "..."}` in it and in its lists decoded to bytes.

    Raises ValueError for text that is not base64.
    """
    if isinstance(value, list):
        return [unpack_bytes(item) for item in value]
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"{value['b64']!r} is not base64: {error}") from None
    return value


def _json_value(name: str, array: Array) -> Any:
    if dtype_of(array) is STRING:
        return _text(array.tolist())
    if array.dtype.kind == "c":
        raise TypeError(
            f"inputs[{name!r}] has dtype {array.dtype.name}; "
            "TensorFlow Serving's REST API can't carry complex numbers, use gRPC"
        )
    if array.dtype.kind == "V":
        # bfloat16, which orjson doesn't support; float32 holds each of its values.
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        # orjson would write null. TensorFlow Serving reads bare NaN, Infinity and -Infinity.
        return orjson.Fragment(json.dumps(array.tolist()).encode())
    return (
        np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape) if array.ndim else array.item()
    )


def _text(value: Any) -> Any:
    """Return strings for JSON: str unchanged, bytes as base64, since their encoding is unknown."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value if isinstance(value, str) else {"b64": base64.b64encode(value).decode()}


def _output(name: str, value: Any, info: TensorInfo, shapes: bool) -> Array:
    try:
        array = _array(value, info)
        if shapes and not info.fits(array.shape):
            raise ValueError(f"got shape {array.shape}")
        return array
    except (ValueError, TypeError, OverflowError) as error:
        raise MisfitError(f"outputs[{name!r}], expected {info}: {error}") from None


def _array(value: Any, info: TensorInfo) -> Array:
    dtype = BY_NAME.get(info.dtype)
    if dtype is None:
        raise ValueError(f"arrays can't hold {info.dtype}")
    array = _strings(value) if dtype is STRING else _numbers(value, dtype)
    if info.shape is not None and not array.size and array.ndim < len(info.shape):
        # `[]` has no dimensions inside it.
        array = array.reshape(array.shape + tuple(size or 0 for size in info.shape[array.ndim :]))
    return array


def _numbers(value: Any, wanted: DType) -> Array:
    array = from_numbers(value, wanted)
    kinds = {"b": "b", "i": "iu", "u": "iu"}.get(wanted.numpy.kind, "fiu")
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"got values of type {array.dtype.name}")
    with np.errstate(over="ignore"):
        return array.astype(wanted.numpy)


def _strings(value: Any) -> Array:
    array = np.array(unpack_bytes(value), np.object_)
    flat = np.empty(array.size, np.object_)
    flat[:] = [_encode(item) for item in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _encode(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogateescape")
    if isinstance(item, bytes):
        return item
    raise TypeError(f"got {item!r}, expected a string")
