"""Log lines, written to a file descriptor by a separate thread, so that a caller never waits and never fails.

                 write                   take                     written
    a request ───────────► waiting ───────────────► the thread ─────────────► a file, a pipe, a terminal
                 │ full                                 │ no room: try again     │ the reader is gone
                 └──► dropped and counted               └──► waits               └──► dropped and counted

Processes can share a pipe: a write of at most PIPE_BUF bytes is atomic, and chunks of lines are not longer. When a disk
accepts only part of a line, the rest follows as soon as there is room.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

from tfserving.serving.embedded.observability import metrics

MOST_WAITING_BYTES = 2**20
# PIPE_BUF. Longer writes of several processes can be interleaved: https://man7.org/linux/man-pages/man7/pipe.7.html
LONGEST_LINE = 4096
RETRY_SECONDS = 0.5
# No reader is left.
_GONE = (errno.EPIPE, errno.EBADF, errno.ECONNRESET)


class Lines:
    """Writes lines to the file descriptor `target`. Drops and counts lines while `most` bytes wait."""

    def __init__(
        self,
        target: int,
        name: str,
        report: Callable[[int], bytes],
        most: int = MOST_WAITING_BYTES,
        gather: float = 0.0,
    ) -> None:
        """`name` is the log's name in the metrics. `report` returns a line for a number of dropped lines.

        Lines of `gather` seconds are written together, since waking the thread costs more than a line.
        """
        self._target = target
        self._name = name
        self._report = report
        self._most = most
        self._gather = gather
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def write(self, *lines: bytes) -> None:
        """Queues lines, each ending with a newline. Drops them when too many bytes wait."""
        size = sum(map(len, lines))
        with self._lock:
            if self._bytes + size > self._most:
                self._drop(len(lines))
                return
            self._bytes += size
            self._waiting += lines
            if not self._some.is_set() and self._runs():
                self._idle.clear()
                self._some.set()

    def flush(self, seconds: float) -> bool:
        """Waits until all lines are written, or `seconds` are over; returns whether they are."""
        self._hurry.set()
        try:
            return self._idle.wait(seconds)
        finally:
            self._hurry.clear()

    def _runs(self) -> bool:
        """Starts the thread at the first line, or at a later one if that fails; returns whether it runs."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"{self._name}-log", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _work(self) -> None:
        while True:
            self._some.wait()
            if self._gather:
                self._hurry.wait(self._gather)
            with self._lock:
                lines, self._waiting = self._waiting, []
                self._some.clear()
            lost = sum(self._write(chunk) for chunk in _chunks(lines))
            with self._lock:
                self._bytes -= sum(map(len, lines))
                if lost:
                    self._drop(lost)
                dropped = self._dropped
            reported = dropped and not lost and not self._write(self._report(dropped))
            with self._lock:
                if reported:
                    self._dropped -= dropped
                if not self._some.is_set():
                    self._idle.set()

    def _write(self, chunk: bytes) -> int:
        """Writes the lines; returns the number that were lost because the reader is gone."""
        while chunk:
            try:
                chunk = chunk[os.write(self._target, chunk) :]
            except BlockingIOError:
                # A pipe is ready when it has room for PIPE_BUF bytes.
                room = select.poll()
                room.register(self._target, select.POLLOUT)
                room.poll(RETRY_SECONDS * 1e3)
            except OSError as error:
                if error.errno in _GONE:
                    return chunk.count(b"\n")
                time.sleep(RETRY_SECONDS)
        return 0

    def _drop(self, count: int) -> None:
        self._dropped += count
        metrics.DROPPED_LINES.add(self._name, by=count)


def _chunks(lines: list[bytes]) -> Iterator[bytes]:
    """`lines` in chunks of at most LONGEST_LINE bytes."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and size + len(line) > LONGEST_LINE:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    if chunk:
        yield b"".join(chunk)
