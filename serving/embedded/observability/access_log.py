"""The access log: a line of JSON for each request, without its contents."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import orjson

from tfserving.serving.embedded.observability.current_request import current_request
from tfserving.serving.embedded.observability.lines import LONGEST_LINE, Lines

# Clients choose the path. Longer texts are cut.
LONGEST_TEXT = 1024
# With all texts cut to this length, every line is short enough.
SHORT_TEXT = 100
GATHER_SECONDS = 0.05


class AccessLog:
    """Writes complete lines to the file descriptor `target`, which processes can share."""

    def __init__(self, target: int = 1) -> None:
        self._lines = Lines(target, "access", _dropped, gather=GATHER_SECONDS)

    def begin(self) -> float:
        """Begins a request; call it in the thread that runs it. Returns the time."""
        current_request.reset()
        return time.monotonic()

    def write(self, began: float, protocol: str, **what: Any) -> None:
        """Writes the line of a complete request, in the thread that ran it. Never waits, never fails.

        `what` is the rest of the line: the method, the client, the status and the sizes in bytes.
        """
        line = {
            "time": _now(),
            "protocol": protocol,
            "model": current_request.model,
            "version": current_request.version,
            "milliseconds": round((time.monotonic() - began) * 1e3, 3),
            **what,
        }
        self._lines.write(_encoded(line))

    def flush(self, seconds: float) -> None:
        """Waits until all lines are written, or `seconds` are over."""
        self._lines.flush(seconds)


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        written = orjson.dumps(line, default=_text, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # JSON can't encode a surrogate.
        written = b""
    if 0 < len(written) <= LONGEST_TEXT:
        return written
    for longest in (LONGEST_TEXT, SHORT_TEXT):
        cut = {
            key: _cut(_text(value), longest) if isinstance(value, (str, bytes)) else value
            for key, value in line.items()
        }
        written = orjson.dumps(cut, option=orjson.OPT_APPEND_NEWLINE)
        if len(written) <= LONGEST_LINE:
            break
    return written


def _dropped(count: int) -> bytes:
    return orjson.dumps({"time": _now(), "dropped": count}, option=orjson.OPT_APPEND_NEWLINE)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


def _text(value: str | bytes) -> str:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return data.decode("utf-8", "replace")
