"""Files that appear whole or not at all, and files that are read as far as they may be large."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

_Opens: TypeAlias = Callable[[Path], AbstractContextManager[BinaryIO]]
# Errors of writing. Others are those of what is written.
_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPIPE, errno.EBADF}
_REFUSED = {
    stat.S_IFDIR: (errno.EISDIR, "it is a folder, not a file"),
    stat.S_IFSOCK: (errno.ENXIO, "it is a socket, which is no file to write to"),
    stat.S_IFBLK: (errno.ENXIO, "it is a block device, which is never written to"),
}
_MOST_LINKS = 40


def _names_its_file(opens: _Opens) -> _Opens:
    """Make errors of writing name the wanted file, where they name none or a temporary one."""

    @contextmanager
    def opened(path: Path) -> Iterator[BinaryIO]:
        try:
            with opens(path) as file:
                yield file
        except OSError as error:
            named = None if error.filename is None else Path(str(error.filename)).parent
            if error.errno not in _WRITING if named is None else named != path.resolve().parent:
                # Of what is written there.
                raise
            raise OSError(error.errno, error.strerror, str(path)) from None

    return opened


@_names_its_file
@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` when the context ends, flushed to disk, and nowhere when it fails.

    Only a regular file is replaced, and of a link the file that it leads to. A pipe and a character device are written
    to: as root, a file renamed to /dev/null would replace the device. An open file of this process, such as
    /dev/stdout, is written to as well, from its position on. Raises OSError for a folder, a socket and a block device.
    """
    if not is_replaced(path):
        number = _descriptor(path)
        with path.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as device:
            yield device
        return
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def is_replaced(path: Path) -> bool:
    """Whether `written_whole` makes a new file at `path`; it writes to what is there otherwise.

    Raises OSError for what it refuses, and for what this process may not write.
    """
    if _descriptor(path) is not None:
        return False
    kind = stat.S_IFREG
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.stat().st_mode)
    if kind in _REFUSED:
        raise OSError(*_REFUSED[kind], str(path))
    place = path.resolve().parent if kind == stat.S_IFREG else path
    code = None
    if not place.exists():
        code = errno.ENOENT
    elif not os.access(place, os.W_OK):
        code = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
    if code is not None:
        raise OSError(code, os.strerror(code), str(path))
    return kind == stat.S_IFREG


def _descriptor(path: Path) -> int | None:
    """Return the number of this process's open file that `path` names, such as /dev/stdout or /dev/fd/3."""
    ours = Path("/proc/self/fd").resolve()
    for _ in range(_MOST_LINKS):
        folder = path.parent.resolve()
        if folder == ours and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            break
        path = folder / path.readlink()
    return None


def read_bounded(path: Path, largest: int) -> bytes:
    """The bytes of the file at `path`.

    Raises OSError when it can't be read, and ValueError when it is a folder, a pipe or a device, which may never end,
    or has more than `largest` bytes.
    """
    # Without O_NONBLOCK a pipe without a writer would not even open.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a file")
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return data


def read_text(path: Path, largest: int) -> str:
    """The text of the file at `path`, in UTF-8. Raises OSError and ValueError as `read_bounded` does."""
    try:
        return read_bounded(path, largest).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from None


def _flush_folder(folder: Path) -> None:
    """Flush the folder's new entry to disk. Where a folder can't be flushed, the file system does it by itself."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
