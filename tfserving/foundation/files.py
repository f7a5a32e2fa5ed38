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
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def _names_its_file(opens: _Opens) -> _Opens:
    """Has errors of writing, which don't name the file, or name a temporary one, name the file that is wanted."""

    @contextmanager
    def opened(path: Path) -> Iterator[BinaryIO]:
        try:
            with opens(path) as file:
                yield file
        except OSError as error:
            named = None if error.filename is None else Path(str(error.filename)).parent
            if error.errno not in _FULL if named is None else named != path.resolve().parent:
                # Of what is written there.
                raise
            raise OSError(error.errno, error.strerror, str(path)) from None

    return opened


@_names_its_file
@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` when the context ends, flushed to disk, and nowhere when it fails.

    A device or a pipe is written to as it is: as root, a file renamed to /dev/null would replace the device. Of a link,
    the file that it leads to is replaced.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as device:
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


def read_bounded(path: Path, largest: int) -> bytes:
    """The bytes of the file at `path`.

    Raises OSError when it can't be read, and ValueError when it is a folder, a pipe or a device, which may never end,
    or has more than `largest` bytes.
    """
    # Without O_NONBLOCK a pipe that nobody writes to would not even open.
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
    """Has the disk know the folder's new entry. Where a folder can't be flushed, the file system does it by itself."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
