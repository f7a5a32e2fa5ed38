"""What the clients of REST may send and keep, and for how long."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from dataclasses import dataclass, fields

from tfserving.serving.embedded.flags import Flags

# Bodies up to this size are not counted: what a connection may have in its buffers anyway.
SMALL = 2**16


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes and times in seconds; infinite is no limit.

    `head_bytes` is the largest request line with its headers, `body_bytes` the largest body. All bodies together have
    at most `held_bytes`. A head has to be there after `head_seconds`, the next part of a body after `read_seconds`, a
    whole body after `body_seconds`. A client takes the next part of an answer within `send_seconds`, the whole of it
    within `body_seconds`. A connection without a request stays `idle_seconds`.
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
        """How often connections have to be looked at: four times in the shortest time, at least once a second."""
        seconds = [getattr(self, field.name) for field in fields(self) if field.name.endswith("_seconds")]
        return min(1.0, max(0.01, float(min(seconds)) / 4))


def read_limits(flags: Flags) -> Limits:
    """What the flags say. Half of the files that the process may open are left to gRPC and to models."""
    largest = flags.max_body_bytes or math.inf
    return Limits(
        head_bytes=flags.rest_api_max_header_bytes or math.inf,
        body_bytes=largest,
        # There is room for one body, however large it may be.
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
    """How many files this process may open: as many as it is allowed to allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return math.inf if hard == resource.RLIM_INFINITY else hard


class Held:
    """How many bytes of bodies there are, of requests and answers.

    Some wait for their client, which sends the rest of a request or takes an answer when it likes. When there are more
    than `most` bytes those that have waited longest are given up, so that slow clients can't keep others out.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._total = 0
        self._waiting: dict[Callable[[], None], int] = {}

    def wait(self, give_up: Callable[[], None], size: int) -> bool:
        """Counts `size` bytes, now, of a client whose bytes `give_up` drops. False: there is no room for them."""
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
        """Forgets a client's bytes."""
        self._total -= self._waiting.pop(give_up, 0)

    def keep(self, give_up: Callable[[], None]) -> int:
        """Goes on counting the bytes of a client, which nobody gives up any more; how many they are, for `free`."""
        return self._waiting.pop(give_up, 0)

    def free(self, size: int) -> None:
        """Forgets bytes that were kept."""
        self._total -= size
