"""CRC-32C (Castagnoli) in numpy: about 150 MB/s, where a loop in Python has 10.

The checksum of a message is the XOR of what its bytes contribute. A byte's contribution depends on its value and on its
distance from the end. A table has all contributions for a block of bytes, and numpy looks them up at once. The checksum
of the blocks before is added (XOR) to the first four bytes of the next block.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

# Castagnoli's polynomial, reflected: https://www.rfc-editor.org/rfc/rfc3720#section-12.1
_POLYNOMIAL = 0x82F63B78
_BLOCK = 512
# Below, a loop over the bytes is faster.
_FEW = 64
# Bytes that are looked up at once, so that a large message takes little memory.
_PIECE = 1 << 18
_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`."""
    return _short(data) if len(data) < _FEW else _long(data)


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, masked as TFRecord masks it, so that data with checksums in it doesn't weaken its own."""
    return int(mask(crc32c(data)))


def mask(crc: Any) -> Any:
    """Masks a checksum, or an array of them in 64 bits."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES


def contributions(length: int) -> Any:
    """A table of shape (`length`, 256): what a byte contributes to the checksum of a message of `length` bytes."""
    table = np.empty((length, 256), np.uint32)
    table[-1] = step = np.array(_TABLE, np.uint32)
    for place in range(length - 2, -1, -1):
        after = table[place + 1]
        table[place] = step[after & 0xFF] ^ (after >> np.uint32(8))
    return table


def _short(data: bytes) -> int:
    crc, table = _ONES, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _ONES


def _long(data: bytes) -> int:
    table, first = _block_tables()
    places = np.arange(_BLOCK)
    start = len(data) % _BLOCK
    if start >= _FEW:
        head = np.frombuffer(data, np.uint8, start).copy()
        # The checksum begins as ones, as if they were added to the first four bytes.
        head[:4] ^= 0xFF
        crc = int(np.bitwise_xor.reduce(table[places[-start:], head]))
    else:
        crc = _short(data[:start]) ^ _ONES
    for piece in range(start, len(data), _PIECE):
        blocks = np.frombuffer(data, np.uint8, min(_PIECE, len(data) - piece), piece).reshape(-1, _BLOCK)
        for value in np.bitwise_xor.reduce(table[places, blocks], axis=1).tolist():
            crc = (
                value
                ^ first[0][crc & 0xFF]
                ^ first[1][crc >> 8 & 0xFF]
                ^ first[2][crc >> 16 & 0xFF]
                ^ first[3][crc >> 24]
            )
    return crc ^ _ONES


@cache
def _block_tables() -> tuple[Any, list[list[int]]]:
    table = contributions(_BLOCK)
    return table, table[:4].tolist()


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        crc = entry
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)


_TABLE = _table()
