"""One process of the load generator: sends its part of the load, and reports each window."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tfserving.clients.address import Address
from tfserving.clients.bench.load import LONGEST_US, NOT_SENT, Load, Window
from tfserving.clients.bench.senders import OK, GrpcSender, RestSender

# The event loop wakes up to a millisecond late; the rest is a busy wait.
_AWAKE = 0.0015
# Late requests are sent in groups of this size before anything else runs.
_LATE_IN_A_ROW = 64
# With more requests in flight, the server is overloaded beyond use.
MOST_IN_FLIGHT = 20_000


@dataclass(frozen=True)
class Work:
    """The part of a load of process number `index` of `processes`; `start` is a time of `time.monotonic`."""

    address: Address
    path: str
    bodies: tuple[bytes, ...]
    load: Load
    warm_up: float
    window: float
    start: float
    timeout: float
    largest: int
    index: int
    processes: int


def run(work: Work, parent: Connection) -> None:
    """Send requests until the parent stops it or is gone."""
    # The longest time that one thread blocks the others; 5 ms by default.
    sys.setswitchinterval(0.0002)
    asyncio.run(_Worker(work, parent).run())


class _Worker:
    def __init__(self, work: Work, parent: Connection) -> None:
        self._work = work
        self._parent = parent
        self._window = Window(work.warm_up)
        self._bodies = itertools.cycle(work.bodies)
        self._sending: set[asyncio.Task[None]] = set()
        self._running = True

    async def run(self) -> None:
        work = self._work
        sender = (
            GrpcSender(work.address, work.timeout, work.largest)
            if work.address.protocol == "grpc"
            else RestSender(work.address, work.path, work.timeout, work.largest)
        )
        gc.freeze()
        self._parent.send("ready")
        reporting = asyncio.create_task(self._report())
        await asyncio.sleep(max(work.start - time.monotonic(), 0))
        sending = [asyncio.create_task(self._open(sender))] if work.load.open else self._closed(sender)
        await reporting
        self._running = False
        for task in (*sending, *self._sending):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*sending, *self._sending, return_exceptions=True)
        await sender.close()

    def _closed(self, sender: GrpcSender | RestSender) -> list[asyncio.Task[None]]:
        """Return this process' share of the clients that send the next request as soon as a response arrives."""
        share = range(self._work.index, self._work.load.concurrency, self._work.processes)

        async def client() -> None:
            while self._running:
                await self._one(sender, time.monotonic())

        return [asyncio.create_task(client()) for _ in share]

    async def _open(self, sender: GrpcSender | RestSender) -> None:
        """Send each request at its intended time, whether or not earlier responses have arrived."""
        for number, intended in enumerate(self._times()):
            await _until(intended)
            if number % _LATE_IN_A_ROW == 0:
                # Late requests are sent without waiting; requests in flight and the windows must progress, too.
                await asyncio.sleep(0)
            if len(self._sending) >= MOST_IN_FLIGHT:
                self._window.errors[NOT_SENT] += 1
                continue
            self._window.lag.record_value(_microseconds(time.monotonic() - intended))
            task = asyncio.create_task(self._one(sender, intended))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    def _times(self) -> Iterator[float]:
        work = self._work
        rate = work.load.rate / work.processes
        randomly = random.Random(work.index)  # noqa: S311 - no secret
        now = work.start + work.index / work.load.rate
        while self._running:
            yield now
            now += randomly.expovariate(rate) if work.load.arrival == "poisson" else 1 / rate

    async def _one(self, sender: GrpcSender | RestSender, since: float) -> None:
        wrong = await sender.send(next(self._bodies))
        if wrong == OK:
            self._window.latencies.record_value(_microseconds(time.monotonic() - since))
        else:
            self._window.errors[wrong] += 1
            # Don't flood a server that rejects requests at once.
            await asyncio.sleep(0.001)

    async def _report(self) -> None:
        """Send each window to the parent at its end; the first one is the warm-up."""
        end, busy = self._work.start, time.process_time()
        loop = asyncio.get_running_loop()
        while True:
            end += self._window.seconds
            await asyncio.sleep(end - time.monotonic())
            window, self._window = self._window, Window(self._work.window)
            before, busy = busy, time.process_time()
            window.busy = (busy - before) / window.seconds
            try:
                # Packing takes milliseconds, in which no request would be sent.
                await loop.run_in_executor(None, lambda window=window: self._parent.send(window.packed()))  # type: ignore[misc]
                if self._parent.poll():
                    return
            except (EOFError, OSError):
                return


async def _until(when: float) -> None:
    left = when - time.monotonic()
    if left > _AWAKE:
        await asyncio.sleep(left - _AWAKE)
    while time.monotonic() < when:
        await asyncio.sleep(0)


def _microseconds(seconds: float) -> int:
    return min(max(round(seconds * 1e6), 1), LONGEST_US)
