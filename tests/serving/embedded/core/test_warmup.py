from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from tests.serving.embedded import saved_models
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.crc32c import masked_crc32c
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import framed, write_records
from tfserving.serving.embedded.core import warmup
from tfserving.serving.embedded.core.loader import Runtime, Servable, load
from tfserving.serving.embedded.errors import Code, RequestError


@pytest.fixture
def version(tmp_path: Path, models: Path) -> Path:
    return Path(shutil.copytree(models / "scale" / "1", tmp_path / "scale" / "1"))


@pytest.fixture
def servable(version: Path) -> Iterator[Servable]:
    servable = load("scale", 1, version, Runtime())
    yield servable
    servable.close()


def test_a_version_without_warm_up_plays_nothing(servable: Servable, version: Path) -> None:
    assert warmup.play(servable, version) == 0


def test_every_request_is_played(servable: Servable, version: Path) -> None:
    saved_models.warmup(version, {"x": rows(1)}, {"x": rows(5)})

    assert warmup.play(servable, version) == 2


def test_a_record_without_a_request_is_skipped(servable: Servable, version: Path) -> None:
    file = version / warmup.FILE
    file.parent.mkdir()
    write_records(file, [PredictionLog().SerializeToString()])

    assert warmup.play(servable, version) == 0


@pytest.mark.parametrize(
    ("records", "code", "text"),
    [
        ([b"malformed_record"], Code.INVALID_ARGUMENT, "Failed to parse warmup record: malformed_record from {}"),
        ([b"\xff" * 2000], Code.INVALID_ARGUMENT, f"Failed to parse warmup record: {'�' * 1000} from {{}}"),
        (
            [PredictionLog().SerializeToString()] * (warmup.MOST_RECORDS + 1),
            Code.INVALID_ARGUMENT,
            "Number of warmup records exceeds the maximum (1000) at {}",
        ),
    ],
)
def test_records_that_can_not_be_played_fail(
    servable: Servable, version: Path, records: list[bytes], code: Code, text: str
) -> None:
    file = version / warmup.FILE
    file.parent.mkdir()
    write_records(file, records)

    with pytest.raises(RequestError) as failure:
        warmup.play(servable, version)

    assert failure.value.code is code
    assert failure.value.text == text.format(file)


def test_a_request_that_fails_fails_the_warm_up(servable: Servable, version: Path) -> None:
    saved_models.warmup(version, {"x": rows(1)}, {"y": rows(1)})

    with pytest.raises(RequestError, match="Signature input alias: x"):
        warmup.play(servable, version)


def length(size: int) -> bytes:
    """The start of a record of `size` bytes."""
    written = struct.pack("<Q", size)
    return written + struct.pack("<I", masked_crc32c(written))


ONE = framed(PredictionLog().SerializeToString())
TEXT = b"this is not a record file at all, not even close\n"
SHORT = "truncated record at {}' failed with Read less bytes than requested"


def refusal(servable: Servable, version: Path, data: bytes) -> RequestError:
    """What the file with `data` fails with."""
    file = version / warmup.FILE
    file.parent.mkdir()
    file.write_bytes(data)
    with pytest.raises(RequestError) as failure:
        warmup.play(servable, version)
    assert str(file) in failure.value.explanation
    return failure.value


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (TEXT, "corrupted record at 0 (Is this even a TFRecord file?)"),
        (gzip.compress(ONE), "corrupted record at 0 (Is this even a TFRecord file?)"),
        (ONE + TEXT, "corrupted record at 16"),
        (length(3) + b"abc", SHORT.format(0)),
        (ONE + length(3), SHORT.format(16)),
        (length(3) + b"abc" + b"sum?", "corrupted record at 12"),
        (ONE + length(3) + b"abc" + b"sum?", "corrupted record at 28"),
    ],
    ids=["text", "gzip", "text later", "truncated", "truncated later", "damaged", "damaged later"],
)
def test_a_file_that_is_no_record_file_fails_in_tensorflows_words(
    servable: Servable, version: Path, data: bytes, seen: str
) -> None:
    error = refusal(servable, version, data)

    assert error.code is Code.DATA_LOSS
    assert error.text == f"{seen}. Please verify your warmup data is in TFRecord format."
    with pytest.raises(tf.errors.DataLossError) as tensorflows:
        list(tf.data.TFRecordDataset(str(version / warmup.FILE), buffer_size=0))
    assert seen in tensorflows.value.message


def test_a_record_that_is_longer_than_the_memory_fails(servable: Servable, version: Path) -> None:
    """TensorFlow's own reader ends the process for it."""
    error = refusal(servable, version, length(2**45) + b"abc")

    assert error.code is Code.DATA_LOSS
    assert error.text.startswith(SHORT.format(0))


@pytest.mark.parametrize("rest", [b"", b"garbage\n", bytes(11)])
def test_what_is_too_short_for_a_record_is_the_end_of_the_file(
    servable: Servable, version: Path, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    saved_models.warmup(version, {"x": rows(1)})
    file = version / warmup.FILE
    file.write_bytes(file.read_bytes() + rest)

    assert warmup.play(servable, version) == 1
    assert ("the file ends within the 12 bytes that start a record" in caplog.text) == bool(rest)


def test_a_folder_in_the_place_of_the_file_fails(servable: Servable, version: Path) -> None:
    (version / warmup.FILE).mkdir(parents=True)

    with pytest.raises(RequestError) as failure:
        warmup.play(servable, version)

    assert failure.value.code is Code.FAILED_PRECONDITION
    assert failure.value.text == f"{version / warmup.FILE}; Is a directory"
