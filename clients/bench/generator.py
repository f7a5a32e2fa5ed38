"""The load generator: one or more processes that send a load to a server and measure it.

    warm-up ──► window, window, window ──► do they agree? ──► the result
                      ▲                        │ no
                      └──── another window ────┘ until there are enough

When the generator is the bottleneck, the load is measured again with twice as many processes.
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

# Windows agree when their throughputs and medians are within this part of the mean.
AGREEMENT = 0.1
START = 0.2
LONGEST_START = 60.0


class GeneratorError(Exception):
    """A process of the generator ended unexpectedly."""


class MeasurementStopped(KeyboardInterrupt):
    """Ctrl-C during a measurement; `step` is the result of its complete windows."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step


@dataclass(frozen=True)
class Bench:
    """What to measure: requests with `bodies`, by the number of rows in each, to `path` or to Predict.

    `processes` is the number of processes, 0 for as many as needed. `page` reads the server's metrics page. A response
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
    progress: Callable[[str], None] = lambda text: None  # noqa: ARG005

    def measure(self, load: Load, processes: int = 1) -> Step:
        """Measure `load`, with `processes` at first unless their number is fixed."""
        processes = self.processes or processes
        most = self.processes or os.cpu_count() or 1
        while True:
            step = self._measure(load, processes)
            if not step.client_bound or processes >= most:
                return step
            processes = min(2 * processes, most)
            self.progress(f"{load}: the client is the bottleneck; measuring again with {processes} processes")

    def _measure(self, load: Load, processes: int) -> Step:
        self.progress(f"{load}: warm-up")
        with _Processes(self, load, processes) as running:
            running.window(self.durations.warm_up)
            before = self.page()
            windows: list[Window] = []
            try:
                self._fill(windows, load, running)
            except KeyboardInterrupt:
                if not windows:
                    raise
                step = step_of(load, windows, processes=processes, steady=_agree(windows), server_ms=None)
                raise MeasurementStopped(step) from None
            after = self.page()
        if self.durations.hold is None:
            windows = windows[-self.durations.windows :]
        return step_of(
            load,
            windows,
            processes=processes,
            steady=_agree(windows),
            server_ms=after.since(before).mean_ms() if before and after else None,
        )

    def _fill(self, windows: list[Window], load: Load, running: _Processes) -> None:
        """Add windows until they agree or are the last; with `hold`, until it is over."""
        durations, seconds = self.durations, self.durations.window_seconds
        if durations.hold is not None:
            while len(windows) < durations.held_windows:
                self.progress(f"{load}: {len(windows) * seconds:.0f} of {durations.hold:g} s")
                windows.append(running.window(seconds))
            return
        while len(windows) < durations.most:
            number = len(windows) + 1
            steady = f" of {durations.windows}" if number <= durations.windows else ", not steady yet"
            self.progress(f"{load}: window {number}{steady}")
            windows.append(running.window(seconds))
            if len(windows) >= durations.windows and _agree(windows[-durations.windows :]):
                return


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
            # Ctrl-C reaches every process of a terminal, and this one handles it: the others start, and run, with it
            # blocked. (multiprocessing's helper is started first, since its start ends with SIGINT unblocked.)
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
        """Return the next window, of all processes together."""
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
            window=bench.durations.window_seconds,
            start=start,
            timeout=bench.timeout,
            largest=bench.largest,
            index=index,
            processes=len(self._processes),
        )

    def _receive(self, pipe: Connection, seconds: float) -> Any:
        if not wait([pipe], seconds):
            raise GeneratorError(f"a process of the load generator didn't respond for {seconds:g} s")
        try:
            return pipe.recv()
        except (EOFError, OSError):
            raise GeneratorError("a process of the load generator ended unexpectedly; its error is above") from None

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
    """Block SIGINT, also for processes started inside. A SIGINT during it raises KeyboardInterrupt at the end.

    Blocking alone isn't enough: another thread of this process (gRPC has some) may receive the signal, and Python then
    interrupts the main thread, halfway through the start of a process.
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
    """Run the work of a process, unless the parent has ended or was stopped in the meantime."""
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


def highest_rate(bench: Bench, holds: Callable[[Step], bool], *, batch: int, steps: int = 8) -> Iterator[Step]:
    """Return steps towards the highest rate at which an open loop's step `holds`: the last step that holds.

    It starts at the throughput of a closed loop, which no open loop exceeds for long, and bisects.
    """
    step = closed = bench.measure(Load(concurrency=16, batch=batch))
    yield closed
    low, high = 0.0, closed.throughput * 1.1
    rate = closed.throughput / 2
    for _ in range(steps):
        step = bench.measure(Load(rate=round(rate, 1), batch=batch), step.processes)
        yield step
        kept_up = step.throughput >= 0.95 * rate and not step.failed
        low, high = (rate, high) if kept_up and holds(step) else (low, rate)
        rate = (low + high) / 2
        if high - low < 0.03 * high:
            return
