"""Predict requests and answers as bytes, without a copy more than they need.

A message object would hold a tensor's bytes once more, and hand its numbers out one by one. So what is large is written
and read here where it lies in the bytes, and everything else by protobuf: the parts of a message can be written one
after the other (https://protobuf.dev/programming-guides/encoding/), and what is read here isn't unusual in any way, or
else the message is read again by protobuf.
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


Part: TypeAlias = bytes | memoryview


class TooLargeError(ValueError):
    """An answer is larger than the client's limit lets it be."""


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


def is_large(parts: Sequence[Part]) -> bool:
    """Whether a body of `parts` is worth memory of its own."""
    return sum(map(len, parts)) > 64 * 1024


def predict_request(call: Call, arrays: Mapping[str, Array], outputs: tuple[str, ...] = ()) -> list[Part]:
    """A serialized PredictRequest, in parts. Raises TypeError for an element type that the wire cannot carry."""
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


# What is smaller is copied faster than looked at in place.
_SMALL = 4096


class Bodies:
    """Makes bodies of parts, large ones again and again in the same memory.

    Memory that is new for every request costs several times the copying: the system hands it out page by page. A
    BytesIO's value is its own buffer, which it writes into again as soon as nobody else has it, and else replaces.
    """

    KEPT = 4

    def __init__(self) -> None:
        self._free: list[io.BytesIO] = []

    @contextlib.contextmanager
    def body(self, parts: Sequence[Part]) -> Iterator[bytes]:
        """The body of `parts`, to be let go of with the context."""
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
    """Version (None when it isn't said), signature and outputs in alphabetical order of a serialized PredictResponse.

    Arrays of numbers that lie in the answer as in memory are read-only views of `data`. The outputs may take `largest`
    bytes together: a tensor that repeats its last value can be declared in a few.

    Raises DecodeError when it is none, and ValueError for a tensor that can't be or is too large.
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
    """Where in an answer the numbers of the output `name` lie."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int

    def array(self, data: bytes) -> Array:
        return np.frombuffer(data, self.dtype, prod(self.shape), self.start).reshape(self.shape)


class _Layout(NamedTuple):
    """An answer but for its numbers: `fixed` is all else, and where it stands."""

    version: int | None
    signature: str
    views: tuple[_View, ...]
    fixed: tuple[tuple[int, bytes], ...]

    def fits(self, data: bytes) -> bool:
        """Whether `data`, an answer of the same length, differs in its numbers alone."""
        return all(data.startswith(fixed, start) for start, fixed in self.fixed)


# By the length of the answer: those of one model differ in their numbers alone.
_LAYOUTS: dict[int, _Layout] = {}
_MOST_LAYOUTS = 1024
# An answer with more beside its numbers is read anew each time.
_KEPT_BYTES = 16 * 1024


def _read_by_protobuf(data: bytes, largest: int) -> tuple[int | None, str, dict[str, Array]]:
    if len(data) > unpacked_bytes(largest):
        raise TooLargeError(
            f"it has {len(data)} bytes that aren't read in place, the limit is {unpacked_bytes(largest)}"
        )
    answer = PredictResponse.FromString(data)
    if len(answer.outputs) > MOST_OUTPUTS:
        raise ValueError(f"it has {len(answer.outputs)} outputs, {MOST_OUTPUTS} are the most")
    outputs: dict[str, Array] = {}
    left = largest
    for name in sorted(answer.outputs):
        array = from_proto(answer.outputs[name], left)
        outputs[name] = array
        # What lies in the answer is no larger than it; what is repeated counts for all outputs together.
        left -= min(left, STRING_BYTES * array.size if array.dtype == object else array.nbytes)
    return *_read_spec(answer.model_spec), outputs


@lru_cache(1024)
def _frames(
    model: str,
    signature: str | None,
    version: int | None,
    label: str | None,
    outputs: tuple[str, ...],
    inputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
) -> tuple[tuple[bytes, np.dtype[Any] | None], ...]:
    """What a request has before each input's numbers, the type in which these follow, and what it ends with.

    An input whose length is not known by its type and shape, strings, has None for a type.
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
    """The entry of the input `name` in the map of inputs, whose tensor goes on for `more` bytes after `tensor`."""
    key = name.encode()
    length = len(tensor) + more
    start = _KEY_TAG + varint(len(key)) + key + _VALUE_TAG + varint(length)
    return _INPUT_TAG + varint(len(start) + length) + start + tensor


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
    """The name in an entry of the map of outputs, and where its tensor lies."""
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
    """Where the numbers of the tensor between `start` and `end` are."""
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
