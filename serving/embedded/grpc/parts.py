"""Counts the parts of a message before it is parsed. Protobuf makes an object of each part and blocks other threads.

A tensor of numbers is one part, whatever its size. A part can also be a string, an input, an example or a feature. A
message of 64 MiB can have 30 million. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from math import prod
from typing import Any

from tfserving.foundation.tensors import STRING
from tfserving.foundation.varint import read_varint
from tfserving.serving.embedded.errors import Code, RequestError

# Messages up to this size have too few parts to delay other requests.
SMALL_BYTES = 2**16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


# A kind of message: the kinds of those of its fields that are messages, by field number.
Kind = dict[int, "Kind"]


def kind_of(descriptor: Any) -> Kind:
    """Returns the kind of a protobuf descriptor."""
    kinds: dict[str, Kind] = {}

    def add(described: Any) -> Kind:
        kind = kinds.get(described.full_name)
        if kind is None:
            kind = kinds[described.full_name] = {}
            fields = described.fields_by_number.items()
            kind.update({number: add(field.message_type) for number, field in fields if field.message_type is not None})
        return kind

    return add(descriptor)


def check_parts(data: bytes, kind: Kind, most: int) -> None:
    """Raises RequestError RESOURCE_EXHAUSTED when the message `data` has more than `most` parts; 0 is no limit.

    An invalid message passes: protobuf reports it.
    """
    if not most or len(data) <= SMALL_BYTES:
        return
    # Messages that are not counted yet: begin, end and kind.
    waiting = [(0, len(data), kind)]
    try:
        while waiting and most >= 0:
            most -= _count(data, *waiting.pop(), waiting, most)
    except IndexError:
        return
    if most < 0:
        raise too_many()


def packed_strings(proto: Any) -> int:
    """Returns the most strings that a TensorProto can have in `tensor_content`, which is one field on the wire.

    Each string takes at least one byte, whatever the shape is.
    """
    if proto.dtype != STRING.number or not proto.tensor_content:
        return 0
    return min(prod(int(dim.size) for dim in proto.tensor_shape.dim), len(proto.tensor_content))


def too_many() -> RequestError:
    """Returns the error of a message with too many parts."""
    text = "The message has too many strings, examples, features and inputs"
    return RequestError(Code.RESOURCE_EXHAUSTED, text, "send fewer at a time; --max_grpc_parts sets the limit")


def _count(data: bytes, at: int, end: int, kind: Kind, waiting: list[tuple[int, int, Kind]], most: int) -> int:
    """Counts the parts of the message between `at` and `end`, up to `most`; adds nested messages to `waiting`.

    Raises IndexError when it is invalid.
    """
    count = 0
    while at < end and count <= most:
        count += 1
        tag = data[at]
        at += 1
        if tag > 127:  # noqa: PLR2004 - seven bits a byte
            tag, at = read_varint(data, at - 1)
        wire = tag & 7
        if wire == _BYTES:
            size = data[at]
            at += 1
            if size > 127:  # noqa: PLR2004
                size, at = read_varint(data, at - 1)
            inner = kind.get(tag >> 3)
            if inner is not None and size:
                waiting.append((at, min(at + size, end), inner))
            at += size
        elif wire == _VARINT:
            _, at = read_varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise IndexError
    return count
