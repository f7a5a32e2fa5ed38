"""Writing tensors as TensorFlow Serving answers them: in typed fields, at the price of `tensor_content`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from clients.tensors import Array, dtype_of, to_proto
from serving.embedded.deep import Deep, write_shape

# A packed field of floats or doubles is, on the wire, its tag, its length and the numbers' little-endian bytes:
# https://protobuf.dev/programming-guides/encoding/#packed
_PACKED_TAGS = {np.dtype(np.float32): b"\x2a", np.dtype(np.float64): b"\x32"}


def write_tensor(proto: Any, array: Array | Deep, *, content: bool = False) -> None:
    """Writes `array`, of any shape, into the empty TensorProto `proto`, in its typed field or as `tensor_content`.

    Raises TypeError for an element type that the wire cannot carry.
    """
    if isinstance(array, Deep):
        write_tensor(proto, array.flat, content=content)
        write_shape(proto, array.shape)
        return
    if content:
        proto.CopyFrom(to_proto(array))
        return
    tag = _PACKED_TAGS.get(array.dtype)
    if tag is None or not array.size or sys.byteorder != "little":
        proto.CopyFrom(to_proto(array, typed=True))
        return
    proto.dtype = dtype_of(array).number
    shape = proto.tensor_shape
    for size in array.shape:
        shape.dim.add(size=size)
    if not array.shape:
        shape.SetInParent()
    data = array.tobytes()
    proto.MergeFromString(tag + varint(len(data)) + data)


def varint(value: int) -> bytes:
    """A number of the wire, seven bits a byte: https://protobuf.dev/programming-guides/encoding/#varints."""
    written = bytearray()
    while value > 127:  # noqa: PLR2004
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
