"""Files of complete records: PREFIX-TIME-PROCESS.tfrecord, with limits for each file and for all together.

When the disk accepts only part of a record, that part is cut off, so every file can be read to its end. The oldest
files are removed when all together become too large. A process locks the file that it writes, so no other removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from tfserving.foundation.records import framed

LARGEST_FILE = 2**30
# Files that are being written can take a quarter of the limit. Complete files share the rest.
_PARTS = 4


class RecordFiles:
    """Appends records to a file, and begins a new file when it is full or was removed."""

    def __init__(self, prefix: Path, most: int = 0, processes: int = 1) -> None:
        """All files with this prefix have at most `most` bytes, written by `processes` processes; 0 is no limit.

        Raises OSError when no file can be created.
        """
        self._prefix = prefix
        self._most = most
        self.largest = min(LARGEST_FILE, most // (_PARTS * processes)) if most else LARGEST_FILE
        self._kept = most - processes * self.largest
        self._size = 0
        self._file: int | None = None
        self._begin()

    def append(self, data: bytes) -> None:
        """Writes a record. Raises OSError when that fails, and then the file contains no part of the record."""
        record = framed(data)
        if self._file is None or self._is_removed(self._file) or 0 < self._size > self.largest - len(record):
            self._begin()
        assert self._file is not None
        left = memoryview(record)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self._end()
            raise
        self._size += len(record)

    def close(self) -> None:
        """Closes the file; an empty one is removed."""
        if self._file is not None and not self._size:
            with suppress(OSError):
                self.path.unlink()
        self._end()

    def _begin(self) -> None:
        self._end()
        if self._most:
            self._make_room()
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        self.path = self._prefix.with_name(
            f"{self._prefix.name}-{stamp}.{now // 1000 % 10**6:06}-{os.getpid()}.tfrecord"
        )
        # Requests are private.
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        _lock(self._file)

    def _end(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
        self._file = None
        self._size = 0

    def _is_removed(self, file: int) -> bool:
        return os.fstat(file).st_nlink == 0

    def _make_room(self) -> None:
        """Removes the oldest files that no process is writing, until there is room for new ones."""
        ours = re.compile(re.escape(self._prefix.name) + r"-\d{8}T\d{6}\.\d{6}-\d+\.tfrecord")
        # Names sort by time.
        files = sorted(path for path in self._prefix.parent.iterdir() if ours.fullmatch(path.name))
        sizes: dict[Path, int] = {}
        for path in files:
            # Another process may remove it first.
            with suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= self._kept:
                break
            with suppress(OSError):
                file = os.open(path, os.O_RDONLY)
                try:
                    if _lock(file):
                        path.unlink()
                        total -= size
                finally:
                    os.close(file)


def _lock(file: int) -> bool:
    """Locks a file until it is closed. Returns False when another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # The file system doesn't support locks. A process whose file is removed begins a new one.
        pass
    return True
