"""The limits of REST clients: sizes, counts and times."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from dataclasses import dataclass, fields

from tfserving.serving.embedded.flags import Flags

# Bodies up to this size are not counted. Each connection may have as much in its buffers.
SMALL = 2**16


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes and times in seconds; infinity is no limit.

    `head_bytes` is the largest request line with its headers, `body_bytes` the largest body. All bodies together have
    at most `held_bytes`. A head must arrive within `head_seconds`, the next part of a body within `read_seconds`, and a
    whole body within `body_seconds`. A client must read the next part of a response within `send_seconds`, and the
    whole response within `body_seconds`. A connection without a request stays open for `idle_seconds`.
    """

    head_bytes: float = 2**15
    body_bytes: float = math.inf
    held_bytes: float = math.inf
    connections: float = math.inf
    head_seconds: float = 60
    read_seconds: float = 60
    body_seconds: float = 600
    send_seconds: float = 60
    idle_seconds: float = 75
    response_seconds: float = math.inf

    def tick(self) -> float:
        """Returns the seconds between checks of connections: a quarter of the shortest time, at most 1."""
        seconds = [getattr(self, field.name) for field in fields(self) if field.name.endswith("_seconds")]
        return min(1.0, max(0.01, float(min(seconds)) / 4))


def read_limits(flags: Flags) -> Limits:
    """Returns the limits of the flags. Half of the files that the process can open are left to gRPC and models."""
    largest = flags.max_body_bytes or math.inf
    return Limits(
        head_bytes=flags.rest_api_max_header_bytes or math.inf,
        body_bytes=largest,
        # There is room for at least one body of the largest size.
        held_bytes=max(flags.rest_api_max_buffered_bytes or math.inf, largest),
        connections=min(flags.rest_api_max_connections or math.inf, _open_files() // 2),
        head_seconds=_seconds(flags.rest_api_header_timeout_in_ms),
        read_seconds=_seconds(flags.rest_api_read_timeout_in_ms),
        body_seconds=_seconds(flags.rest_api_body_timeout_in_ms),
        send_seconds=_seconds(flags.rest_api_send_timeout_in_ms),
        idle_seconds=_seconds(flags.rest_api_idle_timeout_in_ms),
        response_seconds=_seconds(flags.rest_api_timeout_in_ms),
    )


def _seconds(milliseconds: int) -> float:
    return milliseconds / 1000 or math.inf


def _open_files() -> float:
    """Raises the limit of open files to the hard limit; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return math.inf if hard == resource.RLIM_INFINITY else hard


class Held:
    """Counts the bytes of request and response bodies in memory.

    Some bodies wait for their client to send the rest or to read. Beyond `most` bytes, those that have waited longest
    are dropped, so slow clients can't block others.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._total = 0
        self._waiting: dict[Callable[[], None], int] = {}

    def wait(self, give_up: Callable[[], None], size: int) -> bool:
        """Counts `size` bytes of a client; `give_up` drops them. Returns False when there is no room for them."""
        self._total += size - self._waiting.get(give_up, 0)
        self._waiting[give_up] = size
        while self._total > self._most:
            oldest = next(iter(self._waiting))
            if oldest == give_up:
                return False
            self.leave(oldest)
            oldest()
        return True

    def leave(self, give_up: Callable[[], None]) -> None:
        """Removes a client's bytes from the count."""
        self._total -= self._waiting.pop(give_up, 0)

    def keep(self, give_up: Callable[[], None]) -> int:
        """Keeps counting the bytes of a client, but no longer drops them; returns the number, for `free`."""
        return self._waiting.pop(give_up, 0)

    def free(self, size: int) -> None:
        """Removes kept bytes from the count."""
        self._total -= size
