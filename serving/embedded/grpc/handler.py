"""What both transports do with a call: run its method, log it, refuse it; and how a drain waits for clients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.core.pool import EagerPool, Pool
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.grpc.face import Method, Methods
from tfserving.serving.embedded.observability.access_log import AccessLog

log = logging.getLogger(__name__)

LONGEST_DETAILS = 1024
CONTROL_THREADS = 2
# Calls that wait for a thread, when nothing else is said; each takes some kilobytes.
MOST_CALLS = 10_000
MOST_STREAMS = 2_000
# A drain holds answers back until for so many ticks nothing came, and at most so long.
TICK_SECONDS, QUIET_TICKS, LONGEST_HOLD_SECONDS = 0.01, 10, 1.0

Result = tuple[Code | None, bytes | str]


@dataclass(frozen=True)
class Settings:
    """What is the same for both transports.

    There are `threads` handler threads. Requests that are batched wait for each other, which needs an `eager` pool.
    Beyond `most_in_flight` predictions, and `largest_message` bytes, gRPC refuses requests; 0 is no limit. `explain` is
    for errors, `options` are gRPC's own settings, by their names. With `shared` other processes may listen on the same
    port, and each connection is one's.
    """

    threads: int
    eager: bool = False
    explain: bool = True
    most_in_flight: int = 0
    largest_message: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    access_log: AccessLog | None = None

    def pool(self) -> Pool:
        """The threads for predictions."""
        return (EagerPool if self.eager else Pool)(self.threads, "grpc")

    def handlers(self, methods: Methods) -> dict[str, Handler]:
        """The methods, each by its full name."""
        return {
            name: Handler(name, method, explain=self.explain, access_log=self.access_log)
            for name, method in methods.items()
        }


class Handler:
    """A method by its full name, run for one call after the other."""

    def __init__(self, name: str, method: Method, *, explain: bool, access_log: AccessLog | None) -> None:
        """`explain` is for the details of a status."""
        self.name = name
        self._method = method
        self._explain = explain
        self._access_log = access_log

    def handle(self, data: bytes, until: float | None, peer: str | Callable[[], str]) -> Result:
        """None and the response's bytes, or a code and its details; never raises.

        Nobody waits for it after `until`, in seconds of `time.monotonic`. `peer` is, or returns, who called.
        """
        deadline.until = until
        if self._access_log is None:
            return self._run(data)
        began = self._access_log.begin()
        code, result = self._run(data)
        self._access_log.write(
            began,
            "grpc",
            method=self.name,
            client=peer if isinstance(peer, str) else peer(),
            status="OK" if code is None else code.name,
            request_bytes=len(data),
            response_bytes=0 if code else len(result),
        )
        return code, result

    def _run(self, data: bytes) -> Result:
        try:
            return None, self._method(data)
        except RequestError as error:
            code, details = error.code, error.client_text(explain=self._explain)
        except Exception as error:
            log.exception("a gRPC request failed")
            code, details = Code.INTERNAL, f"{type(error).__name__}: {error}"
        if len(details) > LONGEST_DETAILS:
            details = details[:LONGEST_DETAILS] + "...TRUNCATED"
        return code, details


def services_of(methods: Methods) -> list[str]:
    """The names of the methods' services."""
    return sorted({name.strip("/").partition("/")[0] for name in methods})


def target(host: str, port: int) -> str:
    """A numeric address and a port as gRPC writes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def full(most: int) -> str:
    """The details of a call that is one too many."""
    return f"{most} requests are in flight already, no more are taken; try again later"


def unknown(*, explain: bool) -> str:
    """The details of a call of a method that there is not; TensorFlow Serving has none."""
    return "this server has no such method" if explain else ""


def wait_until_quiet(calls: Callable[[], int]) -> None:
    """Returns when no more calls come, while answers are held back; `calls` returns how many there were.

    Clients that wait for an answer send no others, those that just had one may be about to. A tick that comes late says
    that the machine is busy, and that they may be late, too.
    """
    quiet, seen, until = 0, -1, monotonic() + LONGEST_HOLD_SECONDS
    while quiet < QUIET_TICKS and (now := monotonic()) < until:
        time.sleep(TICK_SECONDS)
        late = monotonic() - now > 2 * TICK_SECONDS
        quiet = 0 if late or calls() != seen else quiet + 1
        seen = calls()
