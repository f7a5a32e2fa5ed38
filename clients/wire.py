"""Predict requests and answers as bytes, without a copy more than they need.

A message object would hold a tensor's bytes once more, and hand its numbers out one by one. So what is large is written
and read here where it lies in the bytes, and everything else by protobuf: the parts of a message can be written one
after the other (https://protobuf.dev/programming-guides/encoding/), and what is read here isn't unusual in any way, or
else the message is read again by protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from clients.errors import Call
from clients.messages import ModelSpec, PredictRequest, PredictResponse, TensorProto, TensorShapeProto
from clients.tensors import BY_NUMBER, STRING, Array, dtype_of, from_proto, to_proto, wire_dtype

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def _tag(message: Any, field: str, kind: int = _LENGTH) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number) << 3 | kind


# Every tag here is below 128, a single byte.
_INPUTS, _OUTPUTS = _tag(PredictRequest, "inputs"), _tag(PredictResponse, "outputs")
_SPEC = _tag(PredictResponse, "model_spec")
_DTYPE, _SHAPE = _tag(TensorProto, "dtype", _VARINT), _tag(TensorProto, "tensor_shape")
_CONTENT = _tag(TensorProto, "tensor_content")
# The typed fields whose packed bytes are an array's.
_PACKED = {name: _tag(TensorProto, name) for name in ("float_val", "double_val", "scomplex_val", "dcomplex_val")}
# Of the entries of every map.
_KEY, _VALUE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH


_INPUT_TAG, _CONTENT_TAG, _KEY_TAG, _VALUE_TAG = (bytes((tag,)) for tag in (_INPUTS, _CONTENT, _KEY, _VALUE))


class _UnusualError(Exception):
    """A message that this module leaves to protobuf."""


def spec_of(call: Call) -> Any:
    """The ModelSpec that says what `call` asks."""
    spec = ModelSpec(name=call.model)
    if call.signature is not None:
        spec.signature_name = call.signature
    if call.version is not None:
        spec.version.value = call.version
    if call.label is not None:
        spec.version_label = call.label
    return spec


def predict_request(call: Call, arrays: Mapping[str, Array], outputs: tuple[str, ...] = ()) -> bytes:
    """A serialized PredictRequest. Raises TypeError for an element type that the wire cannot carry."""
    before, after = _around(call.model, call.signature, call.version, call.label, outputs)
    parts: list[Any] = [before]
    for name, array in arrays.items():
        _write_input(parts, name, array)
    parts.append(after)
    return b"".join(parts)


def read_predict_response(data: bytes) -> tuple[int | None, str, dict[str, Array]]:
    """Version (None when it isn't said), signature and outputs in alphabetical order of a serialized PredictResponse.

    Arrays of numbers that lie in the answer as in memory are read-only views of `data`.

    Raises DecodeError when it is none, and ValueError for a tensor that can't be.
    """
    try:
        spec, outputs = _read_response(data)
    except (_UnusualError, IndexError):
        answer = PredictResponse.FromString(data)
        spec = answer.model_spec.SerializeToString()
        outputs = {name: from_proto(answer.outputs[name]) for name in answer.outputs}
    version, signature = _read_spec(spec)
    return version, signature, dict(sorted(outputs.items())) if len(outputs) > 1 else outputs


@lru_cache(1024)
def _around(
    model: str, signature: str | None, version: int | None, label: str | None, outputs: tuple[str, ...]
) -> tuple[bytes, bytes]:
    """What of a request comes before its inputs, and after."""
    call = Call(model=model, signature=signature, version=version, label=label)
    before = PredictRequest(model_spec=spec_of(call)).SerializeToString()
    return before, PredictRequest(output_filter=outputs).SerializeToString()


def _write_input(parts: list[Any], name: str, array: Array) -> None:
    dtype = dtype_of(array)
    if dtype is STRING or not array.size:
        tensor, size = to_proto(array).SerializeToString(), 0
        content: bytes | memoryview = b""
    else:
        raw = np.ascontiguousarray(array, wire_dtype(dtype)).reshape(-1).view(np.uint8)
        content, size = raw.data, raw.size
        tensor = _tensor_head(dtype.number, array.shape, size)
    key = _key(name)
    length = len(tensor) + size
    value_length = _varint(length)
    parts += (
        *(_INPUT_TAG, _varint(len(key) + 1 + len(value_length) + length), key, _VALUE_TAG, value_length, tensor),
        content,
    )


@lru_cache(1024)
def _tensor_head(number: int, shape: tuple[int, ...], size: int) -> bytes:
    """A TensorProto up to its content of `size` bytes."""
    proto = TensorProto(dtype=number)
    proto.tensor_shape.SetInParent()
    for length in shape:
        proto.tensor_shape.dim.add(size=length)
    return bytes(proto.SerializeToString()) + _CONTENT_TAG + _varint(size)


@lru_cache(1024)
def _key(name: str) -> bytes:
    encoded = name.encode()
    return _KEY_TAG + _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    if number < 0x80:  # noqa: PLR2004 - the numbers of one byte
        return bytes((number,))
    written = bytearray()
    while number >= 0x80:  # noqa: PLR2004
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where what follows starts."""
    number, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return number, at
        shift += 7
        if shift > 63:  # noqa: PLR2004 - no number has more bits
            raise _UnusualError


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Of each field between `start` and `end`: its tag, and where its value starts and ends."""
    while start < end:
        tag, start = _read_varint(data, start)
        kind = tag & 7
        if kind == _LENGTH:
            length, start = _read_varint(data, start)
            stop = start + length
        elif kind == _VARINT:
            _, stop = _read_varint(data, start)
        elif kind in (_FIXED32, _FIXED64):
            stop = start + (4 if kind == _FIXED32 else 8)
        else:
            raise _UnusualError
        if stop > end:
            raise _UnusualError
        yield tag, start, stop
        start = stop


def _read_response(data: bytes) -> tuple[bytes, dict[str, Array]]:
    spec, outputs = b"", {}
    for tag, start, end in _fields(data, 0, len(data)):
        if tag == _OUTPUTS:
            name, value = _read_entry(data, start, end)
            outputs[name] = _read_tensor(data, *value)
        elif tag == _SPEC and not spec:
            spec = data[start:end]
        else:
            raise _UnusualError
    return spec, outputs


def _read_entry(data: bytes, start: int, end: int) -> tuple[str, tuple[int, int]]:
    """A map entry's key, and where its value lies."""
    key, value = b"", (0, 0)
    for tag, first, last in _fields(data, start, end):
        if tag == _KEY:
            key = data[first:last]
        elif tag == _VALUE and value == (0, 0):
            value = first, last
        else:
            raise _UnusualError
    try:
        return key.decode(), value
    except UnicodeDecodeError:
        raise _UnusualError from None


def _read_tensor(data: bytes, start: int, end: int) -> Array:
    """The tensor between `start` and `end`: a view of its numbers, or what protobuf reads."""
    number, shape, values = 0, b"", (0, 0, 0)
    for tag, first, last in _fields(data, start, end):
        if tag == _DTYPE:
            number, _ = _read_varint(data, first)
        elif tag == _SHAPE and not shape:
            shape = data[first:last]
        elif values == (0, 0, 0):
            values = tag, first, last
        else:
            raise _UnusualError
    dtype = BY_NUMBER.get(number)
    tag, first, last = values
    if dtype is None or dtype is STRING or tag not in (_CONTENT, _PACKED.get(dtype.field)):
        return from_proto(TensorProto.FromString(data[start:end]))
    sizes = _sizes(shape)
    count = prod(sizes)
    if last - first != count * dtype.numpy.itemsize:
        return from_proto(TensorProto.FromString(data[start:end]))
    return np.frombuffer(data, wire_dtype(dtype), count, first).reshape(sizes)


@lru_cache(1024)
def _sizes(shape: bytes) -> tuple[int, ...]:
    proto = TensorShapeProto.FromString(shape)
    sizes = tuple(int(dim.size) for dim in proto.dim)
    if proto.unknown_rank or any(size < 0 for size in sizes):
        raise _UnusualError
    return sizes


@lru_cache(1024)
def _read_spec(data: bytes) -> tuple[int | None, str]:
    spec = ModelSpec.FromString(data)
    return int(spec.version.value) if spec.HasField("version") else None, str(spec.signature_name)
