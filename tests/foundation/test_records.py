from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import pytest

from tfserving.foundation.crc32c import crc32c, masked_crc32c
from tfserving.foundation.records import (
    LARGEST_RECORD,
    RecordError,
    read_records,
    read_whole_records,
    write_records,
)

RECORDS = [b"first", b"", bytes(range(256)) * 40]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "some.tfrecord"
    write_records(file, RECORDS)
    return file


def test_records_are_read_as_they_were_written(path: Path) -> None:
    assert list(read_records(path)) == RECORDS


def test_a_file_without_records_is_empty(tmp_path: Path) -> None:
    write_records(tmp_path / "none", [])
    assert (tmp_path / "none").read_bytes() == b""
    assert list(read_records(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        # https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_checksum_is_crc32c(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


def test_the_checksum_is_computed_in_c() -> None:
    # In Python it takes seconds for the golden requests of a model of images.
    assert google_crc32c.implementation == "c"


def test_the_checksum_of_a_large_record_is_that_of_tensorflows_own_writer() -> None:
    assert crc32c(bytes(range(256)) * 4000) == 0x640A73C9


def test_every_changed_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for position in [*range(len(b"first") + 16), len(whole) - 1, len(whole) - 2000]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="checksum"):
            list(read_records(path))


def test_a_damaged_record_is_named_by_file_and_byte_and_those_before_it_are_read(path: Path) -> None:
    data = bytearray(path.read_bytes())
    second = 16 + len(b"first")
    data[second] ^= 1
    path.write_bytes(data)
    records = read_records(path)
    assert next(records) == b"first"
    with pytest.raises(RecordError, match=rf"{path}, byte {second}: the record's length does not have its checksum"):
        next(records)


@pytest.mark.parametrize("missing", [1, 4, 5, 10_000])
def test_a_file_that_is_cut_short_is_noticed(path: Path, missing: int) -> None:
    data = path.read_bytes()[:-missing]
    path.write_bytes(data)
    with pytest.raises(RecordError, match=rf"byte 37: the record ends at byte \d+, the file at byte {len(data)}"):
        list(read_records(path))


def test_a_file_that_ends_within_a_header_is_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 7)
    with pytest.raises(RecordError, match="the file ends within the 12 bytes that start a record"):
        list(read_records(path))


def test_a_length_past_all_memory_is_not_believed(path: Path) -> None:
    length = struct.pack("<Q", 1 << 62)
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)))
    with pytest.raises(RecordError, match="the record ends at byte 46116"):
        list(read_records(path))


def test_another_file_is_no_tfrecord(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<HTML>this is a page</HTML>")
    with pytest.raises(RecordError, match=r"byte 0: .*this is no TFRecord"):
        list(read_records(tmp_path / "page"))


def test_what_fails_half_way_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_records(path, failing())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def whole(path: Path) -> tuple[list[bytes], list[tuple[str, int]]]:
    """The whole records of a file, and what is left out of it: where, and how many bytes."""
    left_out: list[tuple[str, int]] = []
    records = list(read_whole_records(path, lambda error, size: left_out.append((str(error), size))))
    return records, [(re.sub(r".*, byte (\d+): .*", r"\1", text), size) for text, size in left_out]


@pytest.mark.parametrize(
    ("damage", "kept", "left_out"),
    [
        (lambda data: data, RECORDS, []),
        (lambda data: data[:-5], RECORDS[:2], [("37", len(RECORDS[2]) + 16 - 5)]),
        (lambda data: data + b"\0" * 7, RECORDS, [("10293", 7)]),
        (lambda data: b"\0" * 100_000 + data, RECORDS, [("0", 100_000)]),
        # Half a record, and what was appended behind it.
        (lambda data: data[:5000] + data, RECORDS[:2] + RECORDS, [("37", 5000 - 37)]),
        # Its length is right, its data isn't; what follows begins where it ends.
        (lambda data: data[:15] + b"X" + data[16:], RECORDS[1:], [("0", 21)]),
        # A length that no memory has, and one that no request has.
        (lambda data: header(1 << 60) + data, RECORDS, [("0", 12)]),
        (lambda data: header(LARGEST_RECORD + 1) * 3 + data, RECORDS, [("0", 36)]),
        (lambda data: data[:0] + b"no TFRecord at all", [], [("0", 18)]),
    ],
    ids=["whole", "short", "header", "zeros", "half", "data", "length", "large", "none"],
)
def test_whole_records_are_read_behind_damaged_ones(
    path: Path, damage: Callable[[bytes], bytes], kept: list[bytes], left_out: list[tuple[str, int]]
) -> None:
    path.write_bytes(damage(path.read_bytes()))
    assert whole(path) == (kept, left_out)


def header(length: int) -> bytes:
    return (data := struct.pack("<Q", length)) + struct.pack("<I", masked_crc32c(data))


def test_a_file_of_beginnings_is_not_read_again_for_each(path: Path) -> None:
    # Ten megabytes would be read for each of them, half a terabyte in all.
    path.write_bytes(header(10_000_000) * 50_000)
    os.truncate(path, 11_000_000)
    assert whole(path) == ([], [("0", 11_000_000)])


def test_a_record_that_is_larger_than_any_request_is_not_read(path: Path) -> None:
    path.write_bytes(header(LARGEST_RECORD + 1))
    os.truncate(path, LARGEST_RECORD + 1000)
    with pytest.raises(RecordError, match=r"byte 0: the record has 1073741825 bytes; at most 1073741824 are read"):
        list(read_records(path))
