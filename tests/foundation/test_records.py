from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfserving.foundation.crc32c import crc32c, masked_crc32c
from tfserving.foundation.records import RecordError, read_records, write_records

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
