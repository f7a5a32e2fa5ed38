"""The load generator: one process or more, that ask a server as a load says, and what came of it.

    warm-up ──► window, window, window ──► do they agree? ──► the result
                      ▲                        │ no
                      └──── another window ────┘ until there are enough

When the generator itself can't ask more, the load is tried again with twice as many processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tfserving.clients.address import Address
from tfserving.clients.bench import worker
from tfserving.clients.bench.load import Durations, Load, Step, Window, step_of
from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.clients.metrics import Page

# Windows agree when throughput and median are within this part of their means.
AGREEMENT = 0.1
START = 0.2
LONGEST_START = 60.0


class GeneratorError(Exception):
    """A process of the generator ended by itself."""


@dataclass(frozen=True)
class Bench:
    """What is asked: `bodies` by the number of rows in each, POSTed to `path` or sent to Predict.

    `processes` is how many ask, 0 for as many as are needed; `page` reads the server's metrics page. An answer
    of more than `largest` bytes is an error.
    """

    address: Address
    path: str
    bodies: Mapping[int, tuple[bytes, ...]]
    durations: Durations = field(default_factory=Durations)
    processes: int = 0
    timeout: float = 10.0
    largest: int = MAX_RESPONSE_BYTES
    page: Callable[[], Page | None] = lambda: None
    progress: Callable[[str], None] = lambda said: None  # noqa: ARG005 - says nothing unless asked to

    def measure(self, load: Load, processes: int = 1) -> Step:
        """What comes of `load`, asked by `processes` at first unless their number is settled."""
        processes = self.processes or processes
        most = self.processes or os.cpu_count() or 1
        while True:
            step = self._measure(load, processes)
            if not step.client_bound or processes >= most:
                return step
            processes = min(2 * processes, most)
            self.progress(f"{load}: the client can't ask more; trying with {processes} processes")

    def _measure(self, load: Load, processes: int) -> Step:
        self.progress(f"{load}: warm-up")
        with _Processes(self, load, processes) as running:
            running.window(self.durations.warm_up)
            before = self.page()
            windows: list[Window] = []
            while len(windows) < self.durations.most:
                windows.append(running.window(self.durations.window))
                most = f"{self.durations.windows} that agree are enough, {self.durations.most} the most"
                self.progress(f"{load}: window {len(windows)} ({most})")
                if len(windows) >= self.durations.windows and _agree(windows[-self.durations.windows :]):
                    break
            after = self.page()
        taken = windows[-self.durations.windows :]
        return step_of(
            load,
            taken,
            processes=processes,
            stable=_agree(taken),
            server_ms=after.since(before).mean_ms() if before and after else None,
        )


class _Processes:
    """The processes of one measurement."""

    def __init__(self, bench: Bench, load: Load, count: int) -> None:
        self._bench = bench
        # Not forked: gRPC's threads would be missing.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for index in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_start, args=(there,), daemon=True, name=f"load-{index}")
            self._pipes.append(here)
            self._processes.append(process)
        self._load = load

    def __enter__(self) -> _Processes:
        try:
            # Ctrl-C reaches every process of a terminal, and is this one's to deal with: the others begin, and stay,
            # with it blocked. (multiprocessing's own helper is begun first: its beginning ends with SIGINT unblocked.)
            resource_tracker.ensure_running()
            with _uninterrupted():
                for process in self._processes:
                    process.start()
            for pipe in self._pipes:
                self._receive(pipe, LONGEST_START)
            start = time.monotonic() + START
            for index, pipe in enumerate(self._pipes):
                pipe.send(self._work(index, start))
            for pipe in self._pipes:
                self._receive(pipe, LONGEST_START)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def window(self, seconds: float) -> Window:
        """The next window, of all processes together."""
        window = Window(seconds)
        for pipe in self._pipes:
            window.add(self._receive(pipe, seconds + LONGEST_START))
        return window

    def _work(self, index: int, start: float) -> worker.Work:
        bench = self._bench
        return worker.Work(
            address=bench.address,
            path=bench.path,
            bodies=bench.bodies[self._load.batch],
            load=self._load,
            warm_up=bench.durations.warm_up,
            window=bench.durations.window,
            start=start,
            timeout=bench.timeout,
            largest=bench.largest,
            index=index,
            processes=len(self._processes),
        )

    def _receive(self, pipe: Connection, seconds: float) -> Any:
        if not wait([pipe], seconds):
            raise GeneratorError(f"a process of the load generator said nothing for {seconds:g} s")
        try:
            return pipe.recv()
        except (EOFError, OSError):
            raise GeneratorError("a process of the load generator ended by itself; its error is above") from None

    def _end(self) -> None:
        for pipe in self._pipes:
            try:
                pipe.send("stop")
            except OSError:
                continue
        for process in self._processes:
            if process.pid is not None:
                process.join(0.5)
                process.terminate()
                process.join()
        for pipe in self._pipes:
            pipe.close()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Blocks SIGINT, for what is begun within too; one that comes meanwhile is a KeyboardInterrupt at the end.

    Blocking alone isn't enough: another thread of this process (gRPC has some) may take the signal, and Python then
    interrupts the main thread, half way through telling a process what it is.
    """
    main = threading.current_thread() is threading.main_thread()
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if main else None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if main:
            signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


def _start(parent: Connection) -> None:
    """What a process does: its work, unless the parent has ended, or has been stopped, in the meantime."""
    try:
        parent.send("started")
        work = parent.recv()
    except (EOFError, OSError):
        return
    if isinstance(work, worker.Work):
        worker.run(work, parent)


def _agree(windows: list[Window]) -> bool:
    counts = [window.latencies.get_total_count() for window in windows]
    medians = [window.latencies.get_value_at_percentile(50) for window in windows]
    return all(
        abs(value - sum(values) / len(values)) <= AGREEMENT * sum(values) / len(values)
        for values in (counts, medians)
        for value in values
    )


def highest_rate(bench: Bench, holds: Callable[[Step], bool], *, batch: int, steps: int = 8) -> list[Step]:
    """Steps towards the highest rate at which an open loop's step `holds`; the last of those that hold is it.

    It starts from what a closed loop gets, which no open loop exceeds for long, and halves what is unknown.
    """
    closed = bench.measure(Load(concurrency=16, batch=batch))
    low, high = 0.0, closed.throughput * 1.1
    rate, found = closed.throughput / 2, [closed]
    for _ in range(steps):
        step = bench.measure(Load(rate=round(rate, 1), batch=batch), found[-1].processes)
        found.append(step)
        kept_up = step.throughput >= 0.95 * rate and not step.failed
        low, high = (rate, high) if kept_up and holds(step) else (low, rate)
        rate = (low + high) / 2
        if high - low < 0.03 * high:
            break
    return found
