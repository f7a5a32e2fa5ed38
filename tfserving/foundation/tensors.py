"""numpy arrays to TensorProto and back, as TensorFlow Serving reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tfserving.foundation.messages import TensorProto, TensorShapeProto

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DType:
    """One of the wire's element types.

    `number` is its value in `tensorflow.DataType`, `name` TensorFlow's name for it, `numpy` the array type that holds
    it (object, holding bytes, for strings), `field` the repeated field of TensorProto that carries it.
    """

    number: int
    name: str
    numpy: np.dtype[Any]
    field: str

    @property
    def wire_name(self) -> str:
        """The enum's name, as REST metadata spells it: `DT_FLOAT`."""
        return str(TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number[self.number].name)


# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/framework/types.proto and tensor.proto
DTYPES = tuple(
    DType(number, name, np.dtype(numpy), field)
    for number, name, numpy, field in (
        (1, "float32", np.float32, "float_val"),
        (2, "float64", np.float64, "double_val"),
        (3, "int32", np.int32, "int_val"),
        (4, "uint8", np.uint8, "int_val"),
        (5, "int16", np.int16, "int_val"),
        (6, "int8", np.int8, "int_val"),
        (7, "string", np.object_, "string_val"),
        (8, "complex64", np.complex64, "scomplex_val"),
        (9, "int64", np.int64, "int64_val"),
        (10, "bool", np.bool_, "bool_val"),
        (14, "bfloat16", ml_dtypes.bfloat16, "half_val"),
        (17, "uint16", np.uint16, "int_val"),
        (18, "complex128", np.complex128, "dcomplex_val"),
        (19, "float16", np.float16, "half_val"),
        (22, "uint32", np.uint32, "uint32_val"),
        (23, "uint64", np.uint64, "uint64_val"),
    )
)
BY_NUMBER = {dtype.number: dtype for dtype in DTYPES}
BY_NAME = {dtype.name: dtype for dtype in DTYPES}
BY_WIRE_NAME = {dtype.wire_name: dtype for dtype in DTYPES}
_WIRE: dict[int, np.dtype[Any]] = {dtype.number: dtype.numpy.newbyteorder("<") for dtype in DTYPES}
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES}
STRING = BY_NAME["string"]
BOOL = BY_NAME["bool"]
UINT64 = BY_NAME["uint64"]


def dtype_of(array: Array) -> DType:
    """The wire's type for `array`; bytes, str and object arrays are strings.

    Raises TypeError for an element type that TensorFlow Serving does not have (datetimes, structs).
    """
    found = _BY_NUMPY.get(array.dtype)
    if found is not None:
        return found
    if array.dtype.kind in "SUO":
        return STRING
    try:
        return _BY_NUMPY[array.dtype.newbyteorder("=")]
    except KeyError:
        raise TypeError(
            f"an array of {array.dtype} has no tensor type; one of {', '.join(BY_NAME)} is needed"
        ) from None


def wire_dtype(dtype: DType) -> np.dtype[Any]:
    """How the numbers of `dtype` lie on the wire, which is little-endian whatever the machine is."""
    return _WIRE[dtype.number]


def from_numbers(value: object, wanted: DType | None = None) -> Array:
    """The array of `value`, Python's numbers in nested lists, in the type that numpy finds for them.

    numpy makes floats of a mixture of integers above and below 2**63; when `wanted` is uint64 they stay integers.

    Raises ValueError for lists of different lengths.
    """
    array = np.asarray(value)
    if wanted is UINT64 and array.dtype.kind == "f":
        exact = np.array(value, np.object_)
        if all(type(number) is int and 0 <= number < 1 << 64 for number in exact.flat):
            return exact.astype(np.uint64)
    return array


def to_proto(array: Array, *, typed: bool = False, pack: bool = False) -> Any:
    """A TensorProto of `array`, any shape.

    Numbers go as `tensor_content` (one copy, no boxing) or, with `typed`, in the typed field (`float_val`, ...) that
    TensorFlow Serving responds with. Strings go in `string_val` or, with `pack`, as `tensor_content`, which only
    TensorFlow's C++ code reads, `tf.make_ndarray` does not. str is encoded as UTF-8.

    Raises TypeError for an element type that the wire cannot carry.
    """
    dtype = dtype_of(array)
    proto = TensorProto(dtype=dtype.number)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if not array.shape:
        proto.tensor_shape.SetInParent()
    if dtype is STRING:
        strings = [_bytes(value) for value in array.ravel().tolist()]
        if pack:
            proto.tensor_content = b"".join((*(varint(len(one)) for one in strings), *strings))
        else:
            proto.string_val.extend(strings)
    elif typed:
        getattr(proto, dtype.field).extend(_field_values(dtype, array))
    else:
        proto.tensor_content = np.ascontiguousarray(array, _WIRE[dtype.number]).tobytes()
    return proto


# TensorFlow's own limit: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/framework/tensor_shape.h
MOST_DIMENSIONS = 254
# No message is larger, so no honest sender declares a larger tensor; a few bytes can declare one all the same.
LARGEST_DECLARED = 2**31
# A string of TensorFlow takes 24 bytes even when it is empty (tensorflow/tsl, platform/ctstring_internal.h).
STRING_BYTES = 24


def from_proto(proto: Any, largest: int = LARGEST_DECLARED) -> Array:
    """The array in `proto`: strings as an object array of bytes, everything else in its own type.

    A typed field with fewer values than the shape has elements repeats its last one (zeros when it is empty), one
    with more is cut, and `tensor_content` must have the exact length, except in a tensor without elements: what
    TensorFlow Serving does with such tensors. A tensor that repeats a value, or has strings in `tensor_content`, may
    take at most `largest` bytes.

    Raises ValueError for an unknown type, a negative or unknown dimension, other content, or a larger tensor.
    """
    flat, shape = read_flat(proto, largest)
    return flat.reshape(shape)


def read_flat(
    proto: Any, largest: int = LARGEST_DECLARED, content: memoryview | None = None
) -> tuple[Array, tuple[int, ...]]:
    """The elements of `proto` in one dimension, and its shape, which may have more than numpy's 64 dimensions.

    `content` takes the place of its `tensor_content`. It is not copied, unless it is of strings.

    Raises ValueError as `from_proto` does.
    """
    if proto.dtype not in BY_NUMBER:
        raise ValueError(f"a tensor of type number {proto.dtype} is not one TensorFlow Serving's clients can send")
    dtype = BY_NUMBER[proto.dtype]
    # Reading the shape costs as much as all the rest of a small tensor, and shapes come again.
    described = proto.tensor_shape.SerializeToString()
    shape = _read_shape(described) if len(described) <= _KEPT_BYTES else _shape_of(described)
    count = prod(shape)
    content = proto.tensor_content if content is None else content
    if content and count:
        if dtype is STRING:
            return _unpack_strings(bytes(content), count, largest), shape
        wanted = count * dtype.numpy.itemsize
        if len(content) != wanted:
            raise ValueError(f"tensor_content has {len(content)} bytes, {dtype.name} of shape {shape} needs {wanted}")
        flat = np.frombuffer(content, _WIRE[dtype.number])
        if dtype is BOOL and (flat.view(np.uint8) > 1).any():
            raise ValueError("tensor_content of bool has bytes other than 0 and 1")
        return flat, shape
    given = len(getattr(proto, dtype.field)) // (2 if dtype.numpy.kind == "c" else 1)
    if given < count:
        # Checked before anything is made of the values.
        size = count * (STRING_BYTES if dtype is STRING else dtype.numpy.itemsize)
        if size > largest:
            raise ValueError(
                f"{given} values are given for shape {shape}: {dtype.name} of that shape would be {size} "
                f"bytes, {largest} are the most for a tensor that repeats its last value"
            )
    values = _read_field(dtype, getattr(proto, dtype.field))
    if len(values) < count:
        fill = values[-1] if len(values) else (b"" if dtype is STRING else dtype.numpy.type(0))
        padded = np.empty(count, dtype.numpy)
        padded[: len(values)] = values
        padded[len(values) :] = fill
        values = padded
    return values[:count], shape


# A described shape of more bytes has more dimensions than a tensor may have, or longer names than anybody needs.
_KEPT_BYTES = 1024


@lru_cache(1024)
def _read_shape(data: bytes) -> tuple[int, ...]:
    return _shape_of(data)


def _shape_of(data: bytes) -> tuple[int, ...]:
    proto = TensorShapeProto.FromString(data)
    if len(proto.dim) > MOST_DIMENSIONS:
        raise ValueError(f"it has {len(proto.dim)} dimensions, {MOST_DIMENSIONS} are the most")
    shape = tuple(dim.size for dim in proto.dim)
    if proto.unknown_rank or any(size < 0 for size in shape):
        raise ValueError(f"a tensor needs a fully known shape, this one has {shape}")
    return shape


def varint(value: int) -> bytes:
    """A number of the wire, seven bits a byte: https://protobuf.dev/programming-guides/encoding/#varints."""
    if value < 128:  # noqa: PLR2004 - the numbers of one byte
        return bytes((value,))
    written = bytearray()
    while value >= 128:  # noqa: PLR2004
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


# The bytes of a length at most. TensorFlow reads lengths of 32 bits.
_VARINT_BYTES = 5


def _unpack_strings(content: bytes, count: int, largest: int) -> Array:
    """`count` strings in `tensor_content`: the lengths of all of them as varints, then their bytes.

    https://github.com/tensorflow/tensorflow/blob/v2.10.0/tensorflow/core/platform/tensor_coding.cc

    Raises ValueError when it is not that, or the strings take more than `largest` bytes.
    """
    # Each length has a byte, so a short content can't declare many strings.
    if count > len(content):
        raise ValueError(f"tensor_content has {len(content)} bytes, the lengths of {count} strings need more")
    if (size := count * STRING_BYTES + len(content)) > largest:
        raise ValueError(f"{count} strings in tensor_content would be {size} bytes, {largest} are the most")
    head = np.frombuffer(content, np.uint8, min(len(content), count * _VARINT_BYTES))
    ends = np.flatnonzero(head < 128)[:count]  # noqa: PLR2004 - the last byte of a varint
    starts = np.concatenate(([0], ends[:-1] + 1))
    if len(ends) < count or (ends - starts).max() >= _VARINT_BYTES:
        raise ValueError(f"tensor_content does not begin with the lengths of {count} strings")
    lengths = np.zeros(count, np.int64)
    for place in range(_VARINT_BYTES):
        there = starts + place <= ends
        lengths[there] |= (head[starts[there] + place].astype(np.int64) & 127) << 7 * place
    # What does not fit in 32 bits is lost.
    bounds = np.concatenate(([0], np.cumsum(lengths & 0xFFFFFFFF))) + int(ends[-1]) + 1
    if bounds[-1] != len(content):
        raise ValueError(f"tensor_content has {len(content)} bytes, its {count} strings end at byte {bounds[-1]}")
    strings = np.empty(count, np.object_)
    strings[:] = [content[start:end] for start, end in pairwise(bounds.tolist())]
    return strings


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"a string tensor holds bytes or str, not {type(value).__name__}: {value!r}")


def _field_values(dtype: DType, array: Array) -> list[Any]:
    """The Python values with which `dtype`'s typed field carries `array`."""
    flat = np.ascontiguousarray(array).ravel()
    if dtype.field == "half_val":
        flat = flat.view(np.uint16)
    elif dtype.numpy.kind == "c":
        flat = flat.view(flat.real.dtype)
    return list(flat.tolist())


def _read_field(dtype: DType, field: Any) -> Array:
    if dtype is STRING:
        strings = np.empty(len(field), np.object_)
        strings[:] = field
        return strings
    if dtype.field == "half_val":
        return np.array(field, np.uint16).view(dtype.numpy)
    if dtype.numpy.kind == "c":
        part = np.float32 if dtype.name == "complex64" else np.float64
        return np.array(field, part).view(dtype.numpy)
    # int_val carries any int32 for the small integer types, which wrap as the real server's do.
    return np.array(field, np.int64 if dtype.field == "int_val" else dtype.numpy).astype(dtype.numpy, copy=False)
