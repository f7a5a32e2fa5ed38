"""Writes PredictResponses: an array's memory is copied into the response, after a header that is cached.

A packed field of floats, doubles or bools is, on the wire, its tag, its length and the elements' little-endian bytes,
like `tensor_content`: https://protobuf.dev/programming-guides/encoding/#packed. So a response in typed fields, as
TensorFlow Serving sends it, costs no more than one in `tensor_content`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tfserving.foundation.messages import ModelSpec, TensorProto
from tfserving.foundation.tensors import Array, dtype_of, to_proto, varint
from tfserving.serving.embedded.core.deep import Deep, write_shape

# The numbers of the typed fields whose elements are the same on the wire as in memory.
_PACKED = {np.dtype(np.float32): 5, np.dtype(np.float64): 6, np.dtype(np.bool_): 11}
_CONTENT = 4
# Clients choose the shapes, so the caches need a limit.
_KEPT = 4096


def write_response(
    model: str, version: int, signature: str, outputs: Mapping[str, Array | Deep], *, content: bool = False
) -> bytes:
    """Returns a PredictResponse of `outputs`, arrays by name, in typed fields or in `tensor_content`.

    Raises TypeError for an element type without a wire format.
    """
    parts = [_spec(model, version, signature)]
    for name, array in outputs.items():
        number = _CONTENT if content else _PACKED.get(array.dtype)
        if number is None or isinstance(array, Deep) or array.dtype.kind in "OSU" or not array.size or not _LITTLE:
            tensor = _tensor(array, content=content).SerializeToString()
            parts.append(field(1, field(1, name.encode()) + field(2, tensor)))
        else:
            parts.append(_head(name, array.dtype, array.shape, number))
            parts.append(array.tobytes())
    return b"".join(parts)


def field(number: int, data: bytes) -> bytes:
    """Returns a field of bytes on the wire: https://protobuf.dev/programming-guides/encoding/."""
    return field_head(number, len(data)) + data


def field_head(number: int, size: int) -> bytes:
    """Returns the header of a field of `size` bytes."""
    return varint(number << 3 | 2) + varint(size)


_LITTLE = sys.byteorder == "little"


def _tensor(array: Array | Deep, *, content: bool) -> Any:
    if not isinstance(array, Deep):
        return to_proto(array, typed=not content, pack=content)
    proto = to_proto(array.flat, typed=not content, pack=content)
    write_shape(proto, array.shape)
    return proto


@lru_cache(_KEPT)
def _spec(model: str, version: int, signature: str) -> bytes:
    spec = ModelSpec(name=model, signature_name=signature)
    spec.version.value = version
    return field(2, spec.SerializeToString())


@lru_cache(_KEPT)
def _head(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], number: int) -> bytes:
    """Returns the header of an array's bytes: the output's name, the element type and the shape, with lengths."""
    proto = TensorProto(dtype=dtype_of(np.empty(0, dtype)).number)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    length = prod(shape) * dtype.itemsize
    described: bytes = proto.SerializeToString()
    tensor = described + field_head(number, length)
    entry = field(1, name.encode()) + field_head(2, len(tensor) + length) + tensor
    return field_head(1, len(entry) + length) + entry
