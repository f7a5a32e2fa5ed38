"""The parts of a gRPC call that both transports share: run its method, log it, refuse it, and drain."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from tfserving.foundation.devices import DEVICE_HEADER, Device
from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.core.pool import EagerPool, Pool
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.grpc.face import DESCRIPTIONS, Method, Methods
from tfserving.serving.embedded.observability.access_log import AccessLog

log = logging.getLogger(__name__)

LONGEST_DETAILS = 1024
CONTROL_THREADS = 2
# The default number of calls that can wait for a thread. Each takes some kilobytes.
MOST_CALLS = 10_000
MOST_STREAMS = 2_000
# A drain holds responses back until no call has arrived for this many ticks, and at most this long.
TICK_SECONDS, QUIET_TICKS, LONGEST_HOLD_SECONDS = 0.01, 10, 1.0

Result = tuple[Code | None, bytes | str]
# The initial metadata of a response.
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Settings:
    """The settings of both transports.

    `threads` is the number of handler threads. Batched requests wait for each other, which requires an `eager` pool.
    Requests beyond `most_in_flight` predictions or `largest_message` bytes are refused; 0 is no limit. `explain` adds
    explanations to errors. `options` are gRPC's own settings, by name. With `shared` other processes can listen on the
    same port; each connection belongs to one of them. Responses that describe a model name `device`, unless it is None.
    """

    threads: int
    eager: bool = False
    explain: bool = True
    most_in_flight: int = 0
    largest_message: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    access_log: AccessLog | None = None
    device: Device | None = None

    def pool(self) -> Pool:
        """Returns the thread pool for predictions."""
        return (EagerPool if self.eager else Pool)(self.threads, "grpc")

    def handlers(self, methods: Methods) -> dict[str, Handler]:
        """Returns the handlers of the methods, by full name."""
        return {
            name: Handler(name, method, self.explain, self.access_log, self._metadata(name))
            for name, method in methods.items()
        }

    def _metadata(self, method: str) -> Metadata:
        return ((DEVICE_HEADER, self.device),) if self.device is not None and method in DESCRIPTIONS else ()


class Handler:
    """Runs the calls of one method."""

    def __init__(
        self,
        name: str,
        method: Method,
        explain: bool,
        access_log: AccessLog | None,
        metadata: Metadata,
    ) -> None:
        """`explain` adds explanations to the details of a status. `metadata` is sent with each response."""
        self.name = name
        self.metadata = metadata
        self._method = method
        self._explain = explain
        self._access_log = access_log

    def handle(self, data: bytes, until: float | None, peer: str | Callable[[], str]) -> Result:
        """Runs a call; returns None and the response's bytes, or a code and its details. Never raises.

        `until` is its deadline, in seconds of `time.monotonic`. `peer` is, or returns, the client's address.
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
    """Returns the names of the methods' services."""
    return sorted({name.strip("/").partition("/")[0] for name in methods})


def target(host: str, port: int) -> str:
    """Returns a numeric address and a port in gRPC's format."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def full(most: int) -> str:
    """Returns the details of a call beyond the limit of `most` calls."""
    return f"{most} requests are already in flight; try again later"


def unknown(*, explain: bool) -> str:
    """Returns the details of a call to an unknown method. TensorFlow Serving sends none."""
    return "this server has no such method" if explain else ""


def wait_until_quiet(calls: Callable[[], int]) -> None:
    """Waits until no more calls arrive, while responses are held back; `calls` returns the number of calls so far.

    Clients that wait for a response send no further calls, but those that have just received one may be about to. A
    late tick means that the machine is busy, so clients may be late, too.
    """
    quiet, seen, until = 0, -1, monotonic() + LONGEST_HOLD_SECONDS
    while quiet < QUIET_TICKS and (now := monotonic()) < until:
        time.sleep(TICK_SECONDS)
        late = monotonic() - now > 2 * TICK_SECONDS
        quiet = 0 if late or calls() != seen else quiet + 1
        seen = calls()
