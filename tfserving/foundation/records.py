"""TFRecord files: golden requests, warm-up requests and request logs.

A record is its length (8 bytes), the length's checksum (4), the data, the data's checksum (4), all little-endian. A
checksum is a masked CRC-32C: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfserving.foundation.crc32c import crc32c, mask, masked_crc32c
from tfserving.foundation.files import written_whole

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_SIZE = _LENGTH.size + _CHECKSUM.size
FRAME_SIZE = _HEADER_SIZE + _CHECKSUM.size
# A file can declare any length; no request is larger than this.
LARGEST_RECORD = 2**30
# How much of a damaged file is searched at once.
_LARGEST_PIECE = 1 << 20


class RecordError(Exception):
    """A TFRecord file can't be read; the text names the file and the byte where the record starts.

    `seen` is what TensorFlow's own reader reports, `""` where it takes what is there for the end of the file.
    """

    def __init__(self, path: Path, offset: int, trouble: str, seen: str) -> None:
        super().__init__(f"{path}, byte {offset}: {trouble}")
        self.seen = seen


def read_records(path: Path) -> Iterator[bytes]:
    """The records of the file `path`, one after the other, both checksums of each checked.

    Raises RecordError where the file is damaged or cut short, FileNotFoundError when there is none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset < size:
            data = _read(path, file, offset, size)
            yield data
            offset += FRAME_SIZE + len(data)


def read_whole_records(path: Path, left_out: Callable[[RecordError, int], None]) -> Iterator[bytes]:
    """The records of the file `path` that are whole, those behind a damaged part too.

    `left_out` is called for each damaged part, with what is wrong there and its size in bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        # Damaged records can overlap. At most as many bytes are read twice as the file has.
        again = size
        while offset < size:
            try:
                data = _read(path, file, offset, size)
            except RecordError as error:
                following = size
                for place in _places(file, offset, size):
                    try:
                        _read(path, file, place, size)
                        following = place
                    except RecordError:
                        again -= file.tell() - place
                    if following == place or again < 0:
                        break
                left_out(error, following - offset)
                offset = following
                continue
            yield data
            offset += FRAME_SIZE + len(data)


def framed(data: bytes) -> bytes:
    """The record of `data`, as a file has it."""
    length = _LENGTH.pack(len(data))
    header = length + _CHECKSUM.pack(masked_crc32c(length))
    return b"".join((header, data, _CHECKSUM.pack(masked_crc32c(data))))


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes `records` to the file `path`, which appears whole, flushed to disk, or not at all."""
    with written_whole(path) as file:
        for data in records:
            file.write(framed(data))


def _read(path: Path, file: BinaryIO, offset: int, size: int) -> bytes:
    """The record at `offset` of a file of `size` bytes. Raises RecordError."""
    file.seek(offset)
    header = file.read(_HEADER_SIZE)
    if len(header) < _HEADER_SIZE:
        trouble = f"the file ends within the {_HEADER_SIZE} bytes that start a record"
        raise RecordError(path, offset, trouble, "")
    length = _LENGTH.unpack_from(header)[0]
    if masked_crc32c(header[: _LENGTH.size]) != _CHECKSUM.unpack_from(header, _LENGTH.size)[0]:
        trouble = "the record's length does not have its checksum; this is no TFRecord"
        hint = "" if offset else " (Is this even a TFRecord file?)"
        raise RecordError(path, offset, trouble, f"corrupted record at {offset}{hint}")
    end = offset + FRAME_SIZE + length
    truncated = f"truncated record at {offset}' failed with Read less bytes than requested"
    if end > size:
        raise RecordError(path, offset, f"the record ends at byte {end}, the file at byte {size}", truncated)
    if length > LARGEST_RECORD:
        trouble = f"the record has {length} bytes; at most {LARGEST_RECORD} are read"
        raise RecordError(path, offset, trouble, truncated)
    data = file.read(length)
    if masked_crc32c(data) != _CHECKSUM.unpack(file.read(_CHECKSUM.size))[0]:
        trouble = f"the record's {length} bytes do not have their checksum"
        raise RecordError(path, offset, trouble, f"corrupted record at {offset + _HEADER_SIZE}")
    return data


def _places(file: BinaryIO, offset: int, size: int) -> Iterator[int]:
    """Where records may begin behind the damaged one at `offset`: where it should end, then wherever a header fits."""
    file.seek(offset)
    header = file.read(_HEADER_SIZE)
    if 0 in _headers(header) and (end := offset + FRAME_SIZE + _LENGTH.unpack_from(header)[0]) < size:
        yield end
    start, piece = offset + 1, _HEADER_SIZE
    while start < min(size, offset + LARGEST_RECORD):
        file.seek(start)
        for place in _headers(file.read(piece + _HEADER_SIZE - 1)):
            yield start + place
        start += piece
        # Damaged parts are mostly small, and a file can have many.
        piece = min(2 * piece, _LARGEST_PIECE)


def _headers(data: bytes) -> list[int]:
    """The places in `data` with a length and its checksum."""
    count = len(data) - _HEADER_SIZE + 1
    if count < 1:
        return []
    values = np.frombuffer(data, np.uint8)
    crc = np.full(count, crc32c(bytes(_LENGTH.size)), np.uint32)
    for place, table in enumerate(_contributions()):
        crc ^= table[values[place : place + count]]
    stored = np.ndarray(count, "<u4", data, _LENGTH.size, (1,))
    places: list[int] = np.flatnonzero(mask(crc.astype(np.uint64)) == stored).tolist()
    return places


@cache
def _contributions() -> Any:
    """Return what a byte adds (XOR) to the checksum of the length 0: uint32 of shape (8, 256), by place and value.

    A CRC is linear, so the checksum of a length is that of 0 with the contributions of its bytes.
    """
    zero = crc32c(bytes(_LENGTH.size))
    lengths = [[value << 8 * place for value in range(256)] for place in range(_LENGTH.size)]
    return np.array([[crc32c(_LENGTH.pack(length)) ^ zero for length in row] for row in lengths], np.uint32)
