"""The probe: golden requests at a steady rate, sent as clients do, for as long as a window lasts.

A server's metrics page counts neither the calls that the server refuses nor failures between a client and the server.
The probe sees both. It sends by label `stable`, as clients do, each request once. A request fails when the server
refuses it or returns an error, or when no response comes within `SECONDS`.

    start ──► SENDING ──► FINISHING ──► over
                 │ finish    the last responses come
                 └──► an error, Ctrl-C, `abort`: over at once
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tfserving.clients import Client, connect
from tfserving.clients.errors import ServingError
from tfserving.clients.golden import send
from tfserving.clients.printable import printable
from tfserving.clients.steps import Retries
from tfserving.foundation.golden import Golden
from tfserving.k8s.rollout.sample import Sample
from tfserving.serving.models_yaml.fleet import STABLE

SECONDS = 10.0
# The limit of requests in flight.
MOST_IN_FLIGHT = 64
_MOST_TEXT = 200
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Place:
    """A destination of a probe: the version of `model` with the label `stable`, or a `version` by number.

    Once it `leaves`, clients are no longer sent there, and failures don't count.
    """

    url: str
    model: str
    version: int | None = None
    leaves: Callable[[], bool] = lambda: False


class Probe:
    """Sends golden requests to each of `places` in turn, `rate` per second, while it is entered.

    The first request is sent after `delay` seconds, so that several probes don't send at the same moment.
    """

    def __init__(self, places: Sequence[Place], golden: Golden, rate: float, delay: float = 0.0) -> None:
        self._golden, self._rate, self._delay = golden, rate, delay
        self._ways = [(place, connect(place.url, timeout=SECONDS, retries=Retries(attempts=1))) for place in places]
        self._staying = list(self._ways)
        self._finishing, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._in_flight = 0
        self._seconds: list[float] = []
        self._failures: Counter[str] = Counter()
        self._succeeded: Counter[int | None] = Counter()
        self._codes: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._finishing.set()
        for _, client in self._ways:
            # Cancels what is in flight.
            client.close()

    def finish(self, pause: Callable[[float], None]) -> None:
        """Stop sending, and wait with `pause` for the last responses; missing ones count as failures."""
        self._finishing.set()
        self._thread.join()
        deadline = time.monotonic() + 2 * SECONDS
        while self._in_flight and time.monotonic() < deadline:
            pause(_POLL_SECONDS)
        with self._lock:
            self._failures.update({"no response": self._in_flight} if self._in_flight else {})

    def take(self) -> Sample:
        """Return the results since the last call."""
        with self._lock:
            found = Sample.of_seconds(self._seconds, self._failures)
            self._seconds, self._failures = [], Counter()
        return found

    def begun(self, version: int | None = None) -> int:
        """Return how many requests succeeded, with `version` only those of that version, plus those in flight.

        A REST response doesn't contain the version, so it counts for each.
        """
        with self._lock:
            done = self._succeeded.total() if version is None else self._succeeded[version] + self._succeeded[None]
            return done + self._in_flight

    def codes(self) -> Counter[str]:
        """Return the number of errors from servers so far, by code."""
        with self._lock:
            return Counter(self._codes)

    def _run(self) -> None:
        if not (self._rate and self._staying):
            return
        due, number = time.monotonic() + self._delay, 0
        while not self._finishing.wait(max(0.0, due - time.monotonic())):
            if self._begin(number):
                number += 1
            # If this machine was busy, requests are skipped: sent at once they would wait for one another.
            due = max(due + 1 / self._rate, time.monotonic())

    def _begin(self, number: int) -> bool:
        """Send a request in a thread of its own, so that a slow one doesn't delay the next one.

        Returns whether it was sent: none is at the limit of requests in flight.
        """
        with self._lock:
            if not self._staying:
                self._failures["all servers are gone"] += 1
                return False
            if self._in_flight >= MOST_IN_FLIGHT:
                return False
            turn, index = divmod(number, len(self._staying))
            place, client = self._staying[index]
            self._in_flight += 1
        thread = threading.Thread(target=self._send, args=(turn, place, client), name="probe-request", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._ended(f"cannot send: {error}")
        return True

    def _send(self, turn: int, place: Place, client: Client) -> None:
        which: dict[str, Any] = {"label": STABLE} if place.version is None else {"version": place.version}
        if turn == 0:
            # So that the first request needs no time for a connection and, over REST, for the signature.
            with contextlib.suppress(ServingError):
                client.metadata(place.model, **which)
        if self._over.is_set():
            return
        requests = self._golden.requests
        request = requests[turn % len(requests)]
        defaults = self._golden.defaults.get(request.signature)
        failure, version, started = "cannot send", None, time.monotonic()
        try:
            version = send(client, place.model, request, defaults=defaults, timeout=SECONDS, **which).version
            failure = ""
        except ServingError as error:
            with self._lock:
                self._codes[error.code] += 1
            failure = f"{error.code}: {printable(error.text, _MOST_TEXT)}"
        finally:
            seconds = time.monotonic() - started
            if failure and not self._over.is_set() and place.leaves():
                self._left(place, client)
            else:
                self._ended(failure, seconds, version)

    def _ended(self, failure: str, seconds: float = 0.0, version: int | None = None) -> None:
        with self._lock:
            self._in_flight -= 1
            if failure:
                self._failures[failure] += 1
            else:
                self._seconds.append(seconds)
                self._succeeded[version] += 1

    def _left(self, place: Place, client: Client) -> None:
        with self._lock:
            self._in_flight -= 1
            with contextlib.suppress(ValueError):
                self._staying.remove((place, client))
