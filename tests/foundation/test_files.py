"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from tfserving.foundation.files import is_replaced, written_whole

ROOT_ALONE = pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device")


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


def test_a_pipe_without_a_reader_any_more_is_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    broken = pytest.raises(BrokenPipeError, match=r"Broken pipe: '.*pipe'")
    with broken, written_whole(pipe) as file:
        os.close(reader)
        file.write(b"all")


@ROOT_ALONE
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


@ROOT_ALONE
def test_a_block_device_is_never_written_to(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    os.mknod(disk, stat.S_IFBLK | 0o600, os.makedev(7, 250))
    refused = pytest.raises(OSError, match=r"it is a block device, which is never written to: '.*disk'")
    with refused, written_whole(disk):
        pytest.fail("there was something to write to")
    assert stat.S_ISBLK(disk.stat().st_mode)


def test_folders_and_sockets_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("folder", "link"):
        with pytest.raises(IsADirectoryError, match="it is a folder, not a file"), written_whole(tmp_path / name):
            pytest.fail("there was something to write to")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        refused = pytest.raises(OSError, match="it is a socket, which is no file to write to")
        with refused, written_whole(tmp_path / "socket"):
            pytest.fail("there was something to write to")
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "link", "socket"}


def test_a_link_to_nothing_leads_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    with written_whole(tmp_path / "link") as file:
        file.write(b"all")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"all"


def test_an_open_file_is_written_to_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before ")
    with (tmp_path / "file").open("ab") as appended:
        (tmp_path / "link").symlink_to(f"/dev/fd/{appended.fileno()}")
        with written_whole(tmp_path / "link") as file:
            file.write(b"after")
        same = os.fstat(appended.fileno()).st_ino == (tmp_path / "file").stat().st_ino
    assert same, "the file was replaced"
    assert (tmp_path / "file").read_bytes() == b"before after"


def test_what_is_replaced_is_known_before_anything_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"before")
    assert is_replaced(tmp_path / "file")
    assert is_replaced(tmp_path / "new")
    assert not is_replaced(tmp_path / "pipe")
    assert not is_replaced(Path("/dev/stdout"))
    with pytest.raises(FileNotFoundError, match="nowhere/file"):
        is_replaced(tmp_path / "nowhere" / "file")
    with pytest.raises(NotADirectoryError):
        is_replaced(tmp_path / "file" / "file")
    assert (tmp_path / "file").read_bytes() == b"before"


def test_a_disk_without_room_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/full")
    full = pytest.raises(OSError, match=r"No space left on device: '.*link'")
    with full, written_whole(tmp_path / "link") as file:
        file.write(b"all")
    missing = pytest.raises(OSError, match=r"No such file or directory: '.*nowhere/file'")
    with missing, written_whole(tmp_path / "nowhere" / "file"):
        pass
