"""Predict requests and responses as bytes, with as few copies as possible.

A message object would copy a tensor's bytes, and return its numbers one by one. So large arrays are written and read in
place, and everything else by protobuf. The parts of a message can be written one after the other
(https://protobuf.dev/programming-guides/encoding/). A response with an unusual layout is parsed by protobuf.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tfserving.clients.errors import Call
from tfserving.clients.limits import MAX_RESPONSE_BYTES, MOST_OUTPUTS, unpacked_bytes
from tfserving.foundation.messages import ModelSpec, PredictRequest, PredictResponse, TensorProto, TensorShapeProto
from tfserving.foundation.tensors import (
    BY_NUMBER,
    MOST_DIMENSIONS,
    STRING,
    STRING_BYTES,
    Array,
    dtype_of,
    from_proto,
    to_proto,
    varint,
    wire_dtype,
)

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def _tag(message: Any, field: str, kind: int = _LENGTH) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number) << 3 | kind


# Every tag here is below 128, so it is a single byte.
_INPUTS, _OUTPUTS = _tag(PredictRequest, "inputs"), _tag(PredictResponse, "outputs")
_SPEC = _tag(PredictResponse, "model_spec")
_DTYPE, _SHAPE = _tag(TensorProto, "dtype", _VARINT), _tag(TensorProto, "tensor_shape")
_CONTENT = _tag(TensorProto, "tensor_content")
# The typed fields whose packed bytes are those of an array.
_PACKED = {name: _tag(TensorProto, name) for name in ("float_val", "double_val", "scomplex_val", "dcomplex_val")}
# The tags in the entries of every map.
_KEY, _VALUE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH


_INPUT_TAG, _CONTENT_TAG, _KEY_TAG, _VALUE_TAG = (bytes((tag,)) for tag in (_INPUTS, _CONTENT, _KEY, _VALUE))


Part: TypeAlias = bytes | memoryview


class TooLargeError(ValueError):
    """A response exceeds the client's limit."""


class _UnusualError(Exception):
    """A message with an unusual layout, which protobuf has to parse."""


def spec_of(call: Call) -> Any:
    """Return the ModelSpec of `call`."""
    spec = ModelSpec(name=call.model)
    if call.signature is not None:
        spec.signature_name = call.signature
    if call.version is not None:
        spec.version.value = call.version
    if call.label is not None:
        spec.version_label = call.label
    return spec


def is_large(parts: Sequence[Part]) -> bool:
    """Return whether a body of `parts` is large enough for reused memory."""
    return sum(map(len, parts)) > 64 * 1024


def predict_request(call: Call, arrays: Mapping[str, Array], outputs: tuple[str, ...] = ()) -> list[Part]:
    """Return a serialized PredictRequest, in parts. Raises TypeError for a dtype that the wire can't carry."""
    kinds = tuple([(name, array.dtype, array.shape) for name, array in arrays.items()])
    frames = _frames(call.model, call.signature, call.version, call.label, outputs, kinds)
    parts: list[Part] = []
    for (name, array), (before, wire) in zip(arrays.items(), frames, strict=False):
        parts.append(before)
        if wire is None:
            parts.append(_entry(name, to_proto(array).SerializeToString()))
        elif array.nbytes < _SMALL:
            parts.append(array.astype(wire, copy=False).tobytes())
        else:
            parts.append(np.ascontiguousarray(array, wire).reshape(-1).view(np.uint8).data)
    parts.append(frames[-1][0])
    return parts


# Copying a smaller array is faster than a view of it.
_SMALL = 4096


class Bodies:
    """Joins parts to bodies, in reused memory.

    New memory for every request costs several times as much as the copying, since the system allocates it page by page.
    The value of a BytesIO is its own buffer. It reuses the buffer when nothing else refers to it.
    """

    KEPT = 4

    def __init__(self) -> None:
        self._free: list[io.BytesIO] = []

    @contextlib.contextmanager
    def body(self, parts: Sequence[Part]) -> Iterator[bytes]:
        """Return the body of `parts`. Don't keep it after the context ends."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = io.BytesIO()
        buffer.seek(0)
        buffer.writelines(parts)
        buffer.truncate()
        try:
            yield buffer.getvalue()
        finally:
            if len(self._free) < self.KEPT:
                self._free.append(buffer)


def read_predict_response(data: bytes, largest: int = MAX_RESPONSE_BYTES) -> tuple[int | None, str, dict[str, Array]]:
    """Return the version (None if missing), signature and outputs, in alphabetical order, of a PredictResponse.

    Arrays whose numbers are stored in the response as in memory are read-only views of `data`. All outputs together
    have at most `largest` bytes, since a tensor that repeats its last value can be declared in a few bytes.

    Raises DecodeError for data that isn't such a message, and ValueError for an invalid or too large tensor.
    """
    layout = _LAYOUTS.get(len(data))
    if layout is None or not layout.fits(data):
        try:
            layout = _read_layout(data)
        except (_UnusualError, IndexError):
            return _read_by_protobuf(data, largest)
        if sum(len(fixed) for _, fixed in layout.fixed) <= _KEPT_BYTES:
            if len(_LAYOUTS) >= _MOST_LAYOUTS:
                _LAYOUTS.clear()
            _LAYOUTS[len(data)] = layout
    return layout.version, layout.signature, {view.name: view.array(data) for view in layout.views}


class _View(NamedTuple):
    """The position of the numbers of the output `name` in a response."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int

    def array(self, data: bytes) -> Array:
        return np.frombuffer(data, self.dtype, prod(self.shape), self.start).reshape(self.shape)


class _Layout(NamedTuple):
    """A response without its numbers: `fixed` holds all other bytes and their positions."""

    version: int | None
    signature: str
    views: tuple[_View, ...]
    fixed: tuple[tuple[int, bytes], ...]

    def fits(self, data: bytes) -> bool:
        """Return whether `data`, a response of the same length, differs only in its numbers."""
        return all(data.startswith(fixed, start) for start, fixed in self.fixed)


# By the length of the response: those of one model usually differ only in their numbers.
_LAYOUTS: dict[int, _Layout] = {}
_MOST_LAYOUTS = 1024
# The layout of a response with more bytes beside its numbers isn't cached.
_KEPT_BYTES = 16 * 1024


def _read_by_protobuf(data: bytes, largest: int) -> tuple[int | None, str, dict[str, Array]]:
    if len(data) > unpacked_bytes(largest):
        raise TooLargeError(
            f"it has {len(data)} bytes with strings or integers, the limit is {unpacked_bytes(largest)}"
        )
    response = PredictResponse.FromString(data)
    if len(response.outputs) > MOST_OUTPUTS:
        raise ValueError(f"it has {len(response.outputs)} outputs, the limit is {MOST_OUTPUTS}")
    outputs: dict[str, Array] = {}
    left = largest
    for name in sorted(response.outputs):
        array = from_proto(response.outputs[name], left)
        outputs[name] = array
        # Stored values are no larger than the response. Repeated values count for all outputs together.
        left -= min(left, STRING_BYTES * array.size if array.dtype == object else array.nbytes)
    return *_read_spec(response.model_spec), outputs


@lru_cache(1024)
def _frames(
    model: str,
    signature: str | None,
    version: int | None,
    label: str | None,
    outputs: tuple[str, ...],
    inputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
) -> tuple[tuple[bytes, np.dtype[Any] | None], ...]:
    """Return the bytes before each input's numbers and the dtype of these, then the bytes at the end of a request.

    Strings have None as dtype: their length doesn't follow from dtype and shape.
    """
    before = PredictRequest(model_spec=spec_of(Call(model=model, signature=signature, version=version, label=label)))
    head = bytes(before.SerializeToString())
    frames: list[tuple[bytes, np.dtype[Any] | None]] = []
    for name, kind, shape in inputs:
        dtype = dtype_of(np.empty(0, kind))
        if dtype is STRING:
            frames.append((head, None))
        else:
            size = prod(shape) * kind.itemsize
            tensor = TensorProto(dtype=dtype.number, tensor_shape=_shape(shape)).SerializeToString()
            tensor += _CONTENT_TAG + varint(size) if size else b""
            frames.append((head + _entry(name, tensor, size), wire_dtype(dtype)))
        head = b""
    return *frames, (head + PredictRequest(output_filter=outputs).SerializeToString(), None)


def _shape(shape: tuple[int, ...]) -> Any:
    proto = TensorShapeProto()
    for size in shape:
        proto.dim.add(size=size)
    return proto


def _entry(name: str, tensor: bytes, more: int = 0) -> bytes:
    """Return the map entry of the input `name`, whose tensor continues for `more` bytes after `tensor`."""
    key = name.encode()
    length = len(tensor) + more
    start = _KEY_TAG + varint(len(key)) + key + _VALUE_TAG + varint(length)
    return _INPUT_TAG + varint(len(start) + length) + start + tensor


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, and the position after it."""
    number, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return number, at
        shift += 7
        if shift > 63:  # noqa: PLR2004 - numbers have at most 64 bits
            raise _UnusualError


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Return the tag of each field between `start` and `end`, and where its value starts and ends."""
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


def _read_layout(data: bytes) -> _Layout:
    spec = b""
    views: list[_View] = []
    for tag, start, end in _fields(data, 0, len(data)):
        if tag == _OUTPUTS and len(views) < MOST_OUTPUTS:
            views.append(_read_view(data, *_read_entry(data, start, end)))
        elif tag == _SPEC and not spec:
            spec = data[start:end]
        else:
            raise _UnusualError
    if len({view.name for view in views}) < len(views):
        raise _UnusualError
    gaps = zip([0, *(view.end for view in views)], [*(view.start for view in views), len(data)], strict=True)
    fixed = tuple((end, data[end:start]) for end, start in gaps)
    return _Layout(*_read_spec(ModelSpec.FromString(spec)), tuple(sorted(views)), fixed)


def _read_entry(data: bytes, start: int, end: int) -> tuple[str, int, int]:
    """Return the name in a map entry of an output, and the position of its tensor."""
    key, value = b"", (0, 0)
    for tag, first, last in _fields(data, start, end):
        if tag == _KEY:
            key = data[first:last]
        elif tag == _VALUE and value == (0, 0):
            value = first, last
        else:
            raise _UnusualError
    try:
        return key.decode(), *value
    except UnicodeDecodeError:
        raise _UnusualError from None


def _read_view(data: bytes, name: str, start: int, end: int) -> _View:
    """Return the position of the numbers of the tensor between `start` and `end`."""
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
    dtype, sizes = BY_NUMBER.get(number), _read_sizes(shape)
    tag, first, last = values
    if dtype is None or dtype is STRING or tag not in (_CONTENT, _PACKED.get(dtype.field)):
        raise _UnusualError
    if last - first != prod(sizes) * dtype.numpy.itemsize:
        raise _UnusualError
    return _View(name, wire_dtype(dtype), sizes, first, last)


def _read_sizes(shape: bytes) -> tuple[int, ...]:
    proto = TensorShapeProto.FromString(shape)
    if len(proto.dim) > MOST_DIMENSIONS:
        raise _UnusualError
    sizes = tuple(int(dim.size) for dim in proto.dim)
    if proto.unknown_rank or any(size < 0 for size in sizes):
        raise _UnusualError
    return sizes


def _read_spec(spec: Any) -> tuple[int | None, str]:
    return int(spec.version.value) if spec.HasField("version") else None, str(spec.signature_name)
