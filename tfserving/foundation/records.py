"""TFRecord files: what golden and warm-up requests lie in.

A record is its length (8 bytes), the length's checksum (4), the data, the data's checksum (4), all little-endian. A
checksum is a masked CRC-32C: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tfserving.foundation.files import written_whole

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_SIZE = _LENGTH.size + _CHECKSUM.size
# Castagnoli's polynomial, reflected: https://www.rfc-editor.org/rfc/rfc3720#section-12.1
_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


class RecordError(Exception):
    """A TFRecord file can't be read; the text names the file and the byte where the trouble starts."""

    def __init__(self, path: Path, offset: int, trouble: str) -> None:
        super().__init__(f"{path}, byte {offset}: {trouble}")
        self.offset = offset


def read_records(path: Path) -> Iterator[bytes]:
    """The records of the file `path`, one after the other, both checksums of each checked.

    Raises RecordError where the file is damaged or cut short, FileNotFoundError when there is none.
    """
    with path.open("rb") as file:
        for offset, length in _lengths(path, file):
            data = file.read(length)
            if masked_crc32c(data) != _CHECKSUM.unpack(file.read(_CHECKSUM.size))[0]:
                raise RecordError(path, offset, f"the record's {length} bytes do not have their checksum")
            yield data


def check_lengths(path: Path, most: int, largest: int) -> None:
    """Checks the first `most` records by their lengths, without reading them.

    Raises RecordError, as `read_records`, for one that isn't whole, and for one of more than `largest` bytes.
    """
    with path.open("rb") as file:
        for offset, length in islice(_lengths(path, file), most):
            if length > largest:
                raise RecordError(path, offset, f"the record has {length} bytes; the most are {largest}")


def _lengths(path: Path, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where each record starts, and how long its data is, which comes next in `file`."""
    size = os.fstat(file.fileno()).st_size
    offset = 0
    while offset < size:
        file.seek(offset)
        header = file.read(_HEADER_SIZE)
        if len(header) < _HEADER_SIZE:
            raise RecordError(path, offset, f"the file ends within the {_HEADER_SIZE} bytes that start a record")
        length = _LENGTH.unpack_from(header)[0]
        if masked_crc32c(header[: _LENGTH.size]) != _CHECKSUM.unpack_from(header, _LENGTH.size)[0]:
            raise RecordError(path, offset, "the record's length does not have its checksum; this is no TFRecord")
        end = offset + _HEADER_SIZE + length + _CHECKSUM.size
        if end > size:
            raise RecordError(path, offset, f"the record ends at byte {end}, the file at byte {size}")
        yield offset, length
        offset = end


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes `records` to the file `path`, which appears whole, flushed to disk, or not at all."""
    with written_whole(path) as file:
        for data in records:
            length = _LENGTH.pack(len(data))
            file.write(length + _CHECKSUM.pack(masked_crc32c(length)))
            file.write(data)
            file.write(_CHECKSUM.pack(masked_crc32c(data)))


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, masked as TFRecord masks it, so that data with checksums in it doesn't weaken its own."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of `data`."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        crc = entry
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        entries.append(crc)
    return tuple(entries)


_TABLE = _table()
