"""What a call does, apart from how it waits.

A call is a generator: it yields what has to be done next (ask the server, pause) and is sent what came of it. A
transport does these steps, blocking or on an event loop, so that both kinds of client make their calls alike.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from tfserving.clients.errors import Call, DeadlineExceeded, Unavailable

Result = TypeVar("Result")


class Ask(NamedTuple):
    """Send `body` to the server's method `path`, and answer with the bytes that it answers.

    `path` is gRPC's (`/package.Service/Method`) or HTTP's; over HTTP no `body` is a GET, any a POST. `deadline` is a
    time of `time.monotonic`. `metadata` goes along: gRPC's metadata, or HTTP headers. An answer that never comes, or
    is an error, is a ServingError. `repeatable` asks may be asked again: they change nothing.
    """

    path: str
    body: bytes | None
    call: Call
    deadline: float
    metadata: Mapping[str, str] | None = None
    repeatable: bool = True


@dataclass(frozen=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


Steps: TypeAlias = Generator[Ask | Pause, bytes | None, Result]


@dataclass(frozen=True)
class Retries:
    """When a call that found the server unavailable is made again.

    At most `attempts` times in all, and only while its timeout lasts. Between two attempts lies a random pause of up to
    `first_pause` seconds, doubled with each attempt up to `longest_pause`, so that clients don't come back all at once.
    A client's retries are on a budget: `budget` of them at first, and one more for every ten calls that succeed, up to
    `budget`; a server that is down or full is not asked several times as often for it.
    """

    attempts: int = 3
    first_pause: float = 0.05
    longest_pause: float = 1.0
    budget: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_pause < 0 or self.longest_pause < 0 or self.budget < 0:
            raise ValueError(f"retries have at least 1 attempt, and no pause or budget below 0; these are {self}")

    def pause(self, attempt: int) -> float:
        """The seconds to wait after the attempt of this number, the first being 1."""
        return random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** (attempt - 1)))  # noqa: S311 - no secret


class Asking:
    """Asks, and asks again as `retries` say. Shared by the threads of one client."""

    EARNED = 0.1

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._left = retries.budget
        self._lock = threading.Lock()

    def __call__(self, ask: Ask) -> Steps[bytes]:
        """The server's answer to `ask`."""
        attempt = 1
        while True:
            try:
                answer = yield ask
            except Unavailable:
                pause = self._retries.pause(attempt)
                if not ask.repeatable or time.monotonic() + pause >= ask.deadline or not self._may_retry(attempt):
                    raise
            else:
                assert answer is not None
                if self._left < self._retries.budget:
                    self._earn()
                return answer
            yield Pause(pause)
            attempt += 1

    def _may_retry(self, attempt: int) -> bool:
        with self._lock:
            if attempt >= self._retries.attempts or self._left < 1:
                return False
            self._left -= 1
            return True

    def _earn(self) -> None:
        with self._lock:
            self._left = min(self._left + self.EARNED, self._retries.budget)


def remaining_seconds(deadline: float, call: Call) -> float:
    """The seconds until `deadline`, a time of `time.monotonic`. Raises DeadlineExceeded when it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the timeout passed before the server could be asked", call)
    return remaining
