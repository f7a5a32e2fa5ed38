"""One process of the load generator: asks as its part of the load says, and tells what came of each window."""

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

# The event loop wakes up to a millisecond late; what is left is waited out awake.
_AWAKE = 0.0015
# So many requests that are late are sent before anything else is done.
_LATE_IN_A_ROW = 64
# More requests in flight than these are not a load that a server is meant to bear.
MOST_IN_FLIGHT = 20_000


@dataclass(frozen=True)
class Work:
    """The part of a load that one of `processes` has, the `index`th; `start` is a time of `time.monotonic`."""

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
    """Asks until the parent says stop, or is gone."""
    # What one thread computes keeps the others waiting so long, by default 5 ms.
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
        telling = asyncio.create_task(self._tell())
        await asyncio.sleep(max(work.start - time.monotonic(), 0))
        asking = [asyncio.create_task(self._open(sender))] if work.load.open else self._closed(sender)
        await telling
        self._running = False
        for task in (*asking, *self._sending):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*asking, *self._sending, return_exceptions=True)
        await sender.close()

    def _closed(self, sender: GrpcSender | RestSender) -> list[asyncio.Task[None]]:
        """This process' share of the clients that ask again as soon as they are answered."""
        share = range(self._work.index, self._work.load.concurrency, self._work.processes)

        async def client() -> None:
            while self._running:
                await self._one(sender, time.monotonic())

        return [asyncio.create_task(client()) for _ in share]

    async def _open(self, sender: GrpcSender | RestSender) -> None:
        """Sends each request when it is meant to be sent, answered or not what was sent before."""
        for number, intended in enumerate(self._times()):
            await _until(intended)
            if number % _LATE_IN_A_ROW == 0:
                # One that is late is sent without waiting; what is in flight, and the windows, must go on, too.
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
            # A server that refuses at once isn't asked in an endless loop.
            await asyncio.sleep(0.001)

    async def _tell(self) -> None:
        """Tells the parent of each window at its end; the first one is the warm-up."""
        end, busy = self._work.start, time.process_time()
        loop = asyncio.get_running_loop()
        while True:
            end += self._window.seconds
            await asyncio.sleep(end - time.monotonic())
            window, self._window = self._window, Window(self._work.window)
            before, busy = busy, time.process_time()
            window.busy = (busy - before) / window.seconds
            try:
                # Packing takes milliseconds, in which nothing would be sent.
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
