"""The steps of a call, apart from how they are run.

A call is a generator. It yields its next step, a request or a pause, and receives the response. A client runs these
steps, blocking or on an event loop, so that both kinds of client share the calls.
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


class Request(NamedTuple):
    """A step: send `body` to the server's method `path`, and return the bytes of the response.

    `path` is gRPC's (`/package.Service/Method`) or HTTP's. Over HTTP a request without `body` is a GET, else a POST.
    `deadline` is a time of `time.monotonic`. `metadata` is sent as gRPC metadata or HTTP headers. A missing response or
    an error is a ServingError. A `repeatable` request changes nothing on the server and may be sent again. The headers
    of the response, in gRPC its initial metadata, are added to `received` if that is given, with names in lower case.
    """

    path: str
    body: bytes | None
    call: Call
    deadline: float
    metadata: Mapping[str, str] | None = None
    repeatable: bool = True
    received: dict[str, str] | None = None


@dataclass(frozen=True)
class Pause:
    """A step: wait for so many seconds."""

    seconds: float


Steps: TypeAlias = Generator[Request | Pause, bytes | None, Result]


@dataclass(frozen=True)
class Retries:
    """When a request to an unavailable server is sent again.

    It is sent at most `attempts` times, and only within the timeout of its call. The pause between two attempts is
    random, up to `first_pause` seconds, and doubles with each attempt up to `longest_pause`, so that clients don't
    return all at once. A client has a budget of retries: `budget` at first, and one more for every ten calls that
    succeed, up to `budget`. So retries don't multiply the load on a server that is down or full.
    """

    attempts: int = 3
    first_pause: float = 0.05
    longest_pause: float = 1.0
    budget: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_pause < 0 or self.longest_pause < 0 or self.budget < 0:
            raise ValueError(f"retries need at least 1 attempt and no pause or budget below 0, got {self}")

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt`, counted from 1."""
        return random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** (attempt - 1)))  # noqa: S311 - no secret


class RetryingSender:
    """Sends requests, and sends them again as `retries` define. Shared by the threads of one client."""

    EARNED = 0.1

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._left = retries.budget
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Steps[bytes]:
        """Return the server's response to `request`."""
        attempt = 1
        while True:
            try:
                response = yield request
            except Unavailable:
                pause = self._retries.pause(attempt)
                if (
                    not request.repeatable
                    or time.monotonic() + pause >= request.deadline
                    or not self._may_retry(attempt)
                ):
                    raise
            else:
                assert response is not None
                if self._left < self._retries.budget:
                    self._earn()
                return response
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
    """Return the seconds until `deadline`, a time of `time.monotonic`. Raises DeadlineExceeded when it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the timeout passed before the request was sent", call)
    return remaining
