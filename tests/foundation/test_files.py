"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

from tfserving.foundation.files import written_whole


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
