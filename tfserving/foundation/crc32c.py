"""CRC-32C (Castagnoli), as TFRecord and TensorFlow's tables of variables have it.

Google's library computes it in C, several gigabytes a second. Where it has no wheel (musl), it warns, and is slow.
"""

from __future__ import annotations

from typing import Any

import google_crc32c

_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`."""
    return int(google_crc32c.value(data))


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`, masked so that data with checksums in it doesn't weaken its own.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    return int(mask(crc32c(data)))


def mask(crc: Any) -> Any:
    """Return a masked checksum, or an array of them; `crc` is an array of uint64 then."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES
