"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
