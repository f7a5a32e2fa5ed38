"""Files, pipes and standard input that a user gives a command to read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tfserving.foundation import given
from tfserving.foundation.given import UnreadableError, given_text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfem\0o\0", "it is not UTF-8: byte 0xff at position 0. It looks like UTF-16, which PowerShell's >"),
        (b"caf\xe9", "it is not UTF-8: byte 0xe9 at position 3$"),
        (b"x" * 11, "larger than 10 bytes"),
    ],
)
def test_what_is_no_text_says_why(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UnreadableError, match=said) as caught:
        given_text(tmp_path / "file", 10)
    assert str(caught.value).startswith(f"{tmp_path}/file: ")


def test_text_may_begin_with_a_mark_and_a_device_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbftext")
    assert given_text(tmp_path / "file") == "text"
    assert given_text("/dev/null") == ""
    with pytest.raises(UnreadableError, match="larger than 1000 bytes"):
        given_text("/dev/zero", 1000)
    with pytest.raises(IsADirectoryError):
        given_text(tmp_path)


def test_a_pipe_is_read_to_its_end_and_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("all of it"))
    writer.start()
    assert given_text(pipe) == "all of it"
    writer.join(10)
    monkeypatch.setattr(given, "LONGEST_SILENCE", 0.1)
    with pytest.raises(UnreadableError, match=r"no data arrived on this pipe for 0\.1 s"):
        given_text(pipe)
