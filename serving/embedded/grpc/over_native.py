"""gRPC over pygrpc-native, which implements HTTP/2 and gRPC in Rust, outside of Python's lock.

Calls arrive complete, in batches. The thread that reads a call runs it and sends the response: see `core/pool.py`.

                                  room in the pool       its turn comes
    call ──► a known method? ────────────────────► read ────────────────► it runs ──► a response, or a status
                   │ no                │ no                  │ its client has gone
                   ▼                   ▼                     ▼
                grpcio          RESOURCE_EXHAUSTED       dropped

Other calls, such as reflection, go to a grpcio server on a UNIX socket.

A drain must not cancel calls, but the library's `close` cancels all open ones. So responses are held back from `hold`
on, until all calls have one. Clients that wait send no further calls. Then all responses are sent together with the
messages of `close`: see `sockets`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from tfserving.serving.embedded.core.pool import Pool
from tfserving.serving.embedded.errors import Code, StartError
from tfserving.serving.embedded.grpc import reflection
from tfserving.serving.embedded.grpc.face import PREDICTIONS, RELOAD, Methods
from tfserving.serving.embedded.grpc.handler import (
    CONTROL_THREADS,
    LONGEST_HOLD_SECONDS,
    MOST_CALLS,
    MOST_STREAMS,
    TICK_SECONDS,
    Metadata,
    Result,
    Settings,
    full,
    services_of,
    target,
    unknown,
    wait_until_quiet,
)
from tfserving.serving.embedded.grpc.over_grpcio import refusal
from tfserving.serving.embedded.grpc.reflection import Reflection
from tfserving.serving.embedded.grpc.sockets import close_port, corked
from tfserving.serving.embedded.grpc.transport import SETTINGS

if TYPE_CHECKING:
    from pygrpc_native._native import CallDetails

# The number of calls that a thread reads at a time.
BATCH = 16


class OverNative:
    """Methods over pygrpc-native, in a pool of handler threads."""

    def __init__(self, methods: Methods, host: str, port: int, settings: Settings) -> None:
        """A message that is too large is refused after it has arrived. `settings.options` are those of SETTINGS."""
        self._most = settings.most_in_flight or MOST_CALLS
        self._largest = settings.largest_message
        self._pool = settings.pool()
        control, reload = Pool(CONTROL_THREADS, "grpc-control"), Pool(1, "grpc-reload")
        self._pools = (self._pool, control, reload)
        self._methods = [
            (handler, self._pool if name in PREDICTIONS else reload if name == RELOAD else control)
            for name, handler in settings.handlers(methods).items()
        ]
        self._count = 0
        # The numbers of calls that wait or run although their clients have gone.
        self._gone: set[int] = set()
        # Results that are held back. None: results are sent at once.
        self._held: list[_Held] | None = None
        self._holding = threading.Lock()
        given: dict[str, Any] = {SETTINGS[key]: _setting(key, value) for key, value in settings.options.items()}
        try:
            self._front = NativeGrpcFront(
                target(host, port),
                [(name, False) for name in methods],
                io_threads=1,
                call_details=True,
                reuse_port=settings.shared,
                **{"max_concurrent_streams": MOST_STREAMS, **given},
            )
        except Exception as error:
            raise StartError(f"--port={port}: gRPC can't listen on {host}:{port}: {error}") from None
        self._rest = _Rest(Reflection(*services_of(methods)), explain=settings.explain)

    def start(self) -> None:
        """Starts to serve."""
        self._front.set_fallback(self._rest.start())
        self._front.start()
        self._pool.read_from(self._read)

    def hold(self) -> None:
        """Holds results back until `finish`, and returns when no more requests arrive."""
        self._held_from_now_on([])
        wait_until_quiet(lambda: self._count)

    def refuse(self, grace: float) -> None:  # noqa: ARG002 - `finish` gets it
        """Accepts no more connections. Calls on existing ones are served until `finish` closes them."""
        close_port(self._front.bound_port)

    def finish(self, grace: float) -> int:
        """Waits up to `grace` seconds for all requests; returns the number that were cut off.

        While one takes long, others get their responses, and new requests are served, too.
        """
        until = monotonic() + grace
        patience = LONGEST_HOLD_SECONDS
        while not _waited(lambda: not self._load(), min(until, monotonic() + patience)) and monotonic() < until:
            for held in self._held_from_now_on(None):
                self._send(held.number, held.result, held.metadata)
            _waited(partial(self._began_after, monotonic()), until)
            self._held_from_now_on([])
            # Each request of a model may take longer than that.
            patience *= 2
        cut_off = self._load()
        last = self._held_from_now_on([])

        def send() -> None:
            for held in last:
                self._send(held.number, held.result, held.metadata)

        corked(self._front.bound_port, len({held.peer for held in last}), send, self._front.close)
        self._rest.stop()
        return cut_off

    def _began_after(self, moment: float) -> bool:
        """Returns whether all running calls began after `moment`."""
        return all(pool.oldest() > moment for pool in self._pools)

    def _held_from_now_on(self, results: list[_Held] | None) -> list[_Held]:
        """Makes `results` the list of held results, or with None sends them from now on; returns those held so far."""
        with self._holding:
            held, self._held = self._held or [], results
        return held

    def _load(self) -> int:
        return sum(pool.load for pool in self._pools)

    def _read(self, wait: bool) -> Sequence[Callable[[], None]] | None:
        """Returns the next predictions, for the pool. Other calls go to their own pools. See `Source`."""
        events: Any = self._front.recv_batch_details(BATCH, None if wait else 0)
        if events is None:
            return None
        now = monotonic()
        load = self._pool.load
        self._count += len(events)
        predictions: list[Callable[[], None]] = []
        for event in events:
            kind, number, index, data, _, details = event
            if kind != EVENT_CALL:
                if len(self._gone) >= MOST_CALLS or not self._load():
                    self._gone.clear()
                self._gone.add(number)
                continue
            pool = self._methods[index][1]
            if self._largest and len(data) > self._largest:
                # gRPC's text.
                text = f"Received message larger than max ({len(data)} vs. {self._largest})"
                self._front.fail(number, Code.RESOURCE_EXHAUSTED, text)
            elif pool is not self._pool:
                pool.post(partial(self._run, number, index, data, now, details))
            elif load + len(predictions) >= self._most:
                self._front.fail(number, Code.RESOURCE_EXHAUSTED, full(self._most))
            else:
                predictions.append(partial(self._run, number, index, data, now, details))
        return predictions

    def _run(self, number: int, index: int, data: bytes, read: float, details: CallDetails) -> None:
        """Runs a call that was read at the time `read`."""
        if self._gone and number in self._gone:
            self._gone.discard(number)
            return
        _, peer, left = details
        handler = self._methods[index][0]
        result = handler.handle(data, None if left is None else read + left, peer)
        if self._held is None:
            self._send(number, result, handler.metadata)
        else:
            self._hold(_Held(number, result, peer, handler.metadata))

    def _hold(self, held: _Held) -> None:
        with self._holding:
            if self._held is not None:
                self._held.append(held)
                return
        self._send(held.number, held.result, held.metadata)

    def _send(self, number: int, result: Result, metadata: Metadata) -> None:
        code, data = result
        if code is None:
            self._front.respond(number, data, metadata or None)  # type: ignore[arg-type]
        else:
            self._front.fail(number, code, data)  # type: ignore[arg-type]


class _Held(NamedTuple):
    """The result of a call, and its client."""

    number: int
    result: Result
    peer: str
    metadata: Metadata


def _waited(condition: Callable[[], bool], until: float) -> bool:
    """Waits for `condition`; returns False when it doesn't hold at `until`."""
    while not condition():
        if monotonic() >= until:
            return False
        time.sleep(TICK_SECONDS)
    return True


def _setting(key: str, value: str) -> int | bool:
    return bool(int(value)) if key == "grpc.keepalive_permit_without_calls" else int(value)


class _Rest(grpc.GenericRpcHandler):
    """The grpcio server for calls that pygrpc-native doesn't support: reflection, and unknown methods."""

    def __init__(self, served: Reflection, *, explain: bool) -> None:
        self._reflection = served
        self._handler = served.handler()
        threads = ThreadPoolExecutor(1, thread_name_prefix="grpc-refuse")
        self._unknown = refusal(grpc.StatusCode.UNIMPLEMENTED, unknown(explain=explain), threads)
        self._server = grpc.server(
            threads,
            handlers=[self],
            options=(("grpc.max_concurrent_streams", MOST_STREAMS), ("grpc.max_receive_message_length", 2**16)),
        )
        # Only this user can access the folder.
        self._folder = tempfile.TemporaryDirectory(prefix="tfserving-", ignore_cleanup_errors=True)

    def start(self) -> str:
        """Starts to serve; returns the path of its socket."""
        path = f"{self._folder.name}/grpc.sock"
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()
        return path

    def stop(self) -> None:
        """Stops at once."""
        self._reflection.end()
        self._server.stop(0).wait()
        self._folder.cleanup()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """See grpcio."""
        return self._handler if details.method in reflection.METHODS else self._unknown
