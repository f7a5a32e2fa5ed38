"""Numbers of seven bits a byte, the lowest first, as Protocol Buffers and LevelDB have them.

https://protobuf.dev/programming-guides/encoding/#varints
"""

from __future__ import annotations

LAST = 0x80
BITS = 64


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends. Raises IndexError when it is cut off or has over 64 bits."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < LAST:
            return value, at
        shift += 7
        if shift >= BITS:
            raise IndexError("a varint has more than 64 bits")
