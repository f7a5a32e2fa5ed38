from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.embedded import saved_models
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.crc32c import masked_crc32c
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import write_records
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
    ("records", "code"),
    [
        ([b"\xff\xff not a log"], Code.INVALID_ARGUMENT),
        ([PredictionLog().SerializeToString()] * (warmup.MOST_RECORDS + 1), Code.INVALID_ARGUMENT),
    ],
)
def test_records_that_can_not_be_played_fail(
    servable: Servable, version: Path, records: list[bytes], code: Code
) -> None:
    file = version / warmup.FILE
    file.parent.mkdir()
    write_records(file, records)

    with pytest.raises(RequestError) as failure:
        warmup.play(servable, version)

    assert failure.value.code is code
    assert str(file) in str(failure.value)


def test_a_request_that_fails_fails_the_warm_up(servable: Servable, version: Path) -> None:
    saved_models.warmup(version, {"x": rows(1)}, {"y": rows(1)})

    with pytest.raises(RequestError, match="Signature input alias: x"):
        warmup.play(servable, version)


def length(size: int) -> bytes:
    """The start of a record of `size` bytes."""
    written = struct.pack("<Q", size)
    return written + struct.pack("<I", masked_crc32c(written))


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\n",
        b"this is not a record file at all, not even close\n",
        # TensorFlow's own reader ends the process for this.
        length(2**45) + b"abc",
        length(3) + b"abc" + b"sum?",
    ],
    ids=["short", "text", "endless", "damaged"],
)
def test_a_file_that_is_no_record_file_fails(servable: Servable, version: Path, data: bytes) -> None:
    file = version / warmup.FILE
    file.parent.mkdir()
    file.write_bytes(data)

    with pytest.raises(RequestError) as failure:
        warmup.play(servable, version)

    assert failure.value.code is Code.DATA_LOSS
    assert failure.value.text.startswith("corrupted record at 0. Please verify your warmup data")
    assert str(file) in failure.value.explanation
