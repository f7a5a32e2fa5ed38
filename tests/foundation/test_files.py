"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from tfserving.foundation import files
from tfserving.foundation.files import UnreadableError, read_text, temporary_folder, written_whole


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    with written_whole(tmp_path / "file") as file:
        file.write(b"all")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"all"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    with contextlib.suppress(RuntimeError), written_whole(tmp_path / "file") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_leads_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    with written_whole(tmp_path / "link") as file:
        file.write(b"after")
    assert (tmp_path / "link").readlink() == Path("real")
    assert (tmp_path / "real").read_bytes() == b"after"


def test_a_pipe_gets_the_bytes_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with written_whole(pipe) as file:
        file.write(b"all")
    reader.join(10)
    assert got == [b"all"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device")
def test_the_null_device_is_not_replaced(tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with written_whole(null) as file:
        file.write(b"all")
    assert stat.S_ISCHR(null.stat().st_mode)
    (tmp_path / "link").symlink_to(null)
    with written_whole(tmp_path / "link") as file:
        file.write(b"all")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_ISCHR(null.stat().st_mode)


def test_a_disk_without_room_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/full")
    full = pytest.raises(OSError, match=r"No space left on device: '.*link'")
    with full, written_whole(tmp_path / "link") as file:
        file.write(b"all")
    missing = pytest.raises(OSError, match=r"No such file or directory: '.*nowhere/file'")
    with missing, written_whole(tmp_path / "nowhere" / "file"):
        pass


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfem\0o\0", "it is not UTF-8: byte 0xff at position 0. It looks like UTF-16, which PowerShell's >"),
        (b"caf\xe9", "it is not UTF-8: byte 0xe9 at position 3$"),
        (b"x" * 11, "it has more than 10 bytes"),
    ],
)
def test_what_is_no_text_says_why(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UnreadableError, match=said) as caught:
        read_text(tmp_path / "file", 10)
    assert str(caught.value).startswith(f"{tmp_path}/file: it ")


def test_text_may_begin_with_a_mark_and_a_device_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbftext")
    assert read_text(tmp_path / "file") == "text"
    assert read_text("/dev/null") == ""
    with pytest.raises(UnreadableError, match="it has more than 1000 bytes"):
        read_text("/dev/zero", 1000)
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path)


def test_a_pipe_is_read_to_its_end_and_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("all of it"))
    writer.start()
    assert read_text(pipe) == "all of it"
    writer.join(10)
    monkeypatch.setattr(files, "LONGEST_SILENCE", 0.1)
    with pytest.raises(UnreadableError, match=r"nobody has written to this pipe for 0\.1 s"):
        read_text(pipe)


def test_without_a_temporary_folder_the_error_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    said = r"needed for the proofs, and none can be written to .*: set TMPDIR to one that can"
    with pytest.raises(OSError, match=said), temporary_folder("the proofs"):
        pass
