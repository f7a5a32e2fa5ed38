"""The access log: a line of JSON for each request, without anything that was in it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import orjson

from tfserving.serving.embedded.observability.asked import asked


class AccessLog:
    """Writes lines to the file descriptor `target`, each at once, so that processes can share it."""

    def __init__(self, target: int = 1) -> None:
        self._target = target

    def begin(self) -> float:
        """To be called in the thread that answers, before it does; answers when that was."""
        asked.forget()
        return time.monotonic()

    def write(self, began: float, protocol: str, **what: Any) -> None:
        """Writes the line of a request that is answered, in the thread that answered it.

        `what` is the rest of the line: the method, who asked, the status and the sizes in bytes.
        """
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "protocol": protocol,
            "model": asked.model,
            "version": asked.version,
            "milliseconds": round((time.monotonic() - began) * 1e3, 3),
            **what,
        }
        # A reader that is gone is no reason to fail requests.
        with suppress(OSError):
            os.write(self._target, orjson.dumps(line, default=_text, option=orjson.OPT_APPEND_NEWLINE))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
