"""The server's log: lines on stderr with time and level, in the same format in every process."""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from contextlib import suppress
from datetime import datetime, timezone

from tfserving.serving.embedded.observability.lines import LONGEST_LINE, Lines

FLUSH_SECONDS = 2.0
# A text can contain values from a request, and a traceback is long.
LONGEST_TEXT = 2**14
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ServerLog(logging.Handler):
    """Writes log records to the file descriptor `target`, which it owns. A caller never waits. See Lines."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target
        self._lines = Lines(target, "server", _dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the lines of a record."""
        try:
            text = self.format(record)
        except Exception as error:
            text = f"{record.msg!r} can't be formatted: {error}"
        self._lines.write(*_written(record.created, record.levelname, text))

    def flush(self) -> None:
        """Waits until all lines are written, or a time limit is over."""
        self._lines.flush(FLUSH_SECONDS)

    def close(self) -> None:
        """Closes the file descriptor, unless lines still wait."""
        super().close()
        if self._lines.flush(0):
            os.close(self._target)


def log_to_stderr() -> None:
    """Sends all log records, warnings and uncaught exceptions of threads to the present stderr."""
    _never_wait(2)
    # A duplicate: file descriptor 2 is hidden while TensorFlow is imported.
    handler = ServerLog(os.dup(2))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_uncaught


def _never_wait(number: int) -> None:
    """Makes writes to a full pipe fail instead of block, because TensorFlow and gRPC write to it themselves.

    For example, gRPC writes a line for each failed TLS handshake, in a thread that serves other clients.
    """
    mode = os.fstat(number).st_mode
    if stat.S_ISFIFO(mode):
        # Reopened, because the flag belongs to the open file, which other processes may share.
        with suppress(OSError):
            own = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(own, number)
            os.close(own)
            return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        os.set_blocking(number, False)


def _log_uncaught(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is not None:
        name = caught.thread.name if caught.thread else "?"
        logging.getLogger(__name__).error("the thread %s ended with an error", name, exc_info=caught.exc_value)


def _written(created: float, level: str, text: str) -> list[bytes]:
    """Returns the lines of a text. All but the first are indented, so no part of a text looks like another record."""
    time = datetime.fromtimestamp(created, timezone.utc).isoformat(timespec="milliseconds")
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + "..."
    first, *others = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text).split("\n")
    lines = [first, *(line if line.startswith("  ") else f"  {line}" for line in others)]
    return [_encoded(f"{time} {level.lower()}: {line}") for line in lines]


def _encoded(line: str) -> bytes:
    written = line.encode("utf-8", "backslashreplace")
    if len(written) >= LONGEST_LINE:
        written = written[: LONGEST_LINE - 4].decode("utf-8", "ignore").encode() + b"..."
    return written + b"\n"


def _dropped(count: int) -> bytes:
    text = f"{count} lines of this log were dropped: they were not read in time"
    return b"".join(_written(datetime.now(timezone.utc).timestamp(), "WARNING", text))
