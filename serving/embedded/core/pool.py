"""The threads that run requests: as few at a time as keep up, because Python runs one thread at a time.

Threads that compete for Python's lock block and wake each other, which costs more than a small model. So a thread needs
a token to run tasks, and there is one token as long as tasks are short. A task that runs long in TensorFlow, where
Python's lock is free, adds one token.

                    a task was long, or takes longer than a tick
    1 token  ──────────────────────────────────────────────────────►  2 tokens … as many as threads
             ◄──────────────────────────────────────────────────────
                    a task was short, and not all other tokens are held by long ones

So a slow model has as many threads as requests, small models have one thread, and no request waits longer than a tick
for a slow one.

A task that waits for something other than TensorFlow, such as its client or its turn, *steps aside*: another thread
takes its place, so its wait doesn't block other requests.

A pool can have a *source*, from which its threads read their tasks. One idle thread at a time reads, and runs the task
itself, so a short task needs no switch between threads. When it reads a long task, another thread reads next. While all
threads run tasks, the pool's watch reads, once a tick.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from math import inf
from time import monotonic, sleep
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

# Returns the tasks that are pending. Called with True, it waits when there are none. None: the source has ended.
Source = Callable[[bool], Sequence[Callable[[], object]] | None]

# A TensorFlow call that computes longer is long. Waking and switching threads takes some 50 microseconds.
LONG_SECONDS = 0.0003
TICK_SECONDS = 0.005
# The watch stops ticking after this many ticks without tasks.
QUIET_TICKS = 20

# The number of tasks of a pool that can be aside at a time. Each has a thread.
MOST_ASIDE = 256


def call_took(seconds: float) -> None:
    """Reports to the pool of this thread, if it has one, how long the thread computed in TensorFlow.

    `seconds` is the thread's CPU time. Time spent waiting for Python's lock must not count, otherwise each added thread
    would be a reason for another one.
    """
    if seconds > LONG_SECONDS and (worker := _here.worker) is not None:
        worker.long = True


def step_aside() -> bool:
    """Gives this thread's place in its pool to another thread until `step_back`. False: too many are aside."""
    worker = _here.worker
    return worker is None or worker.pool.step_aside(worker)


def step_back() -> None:
    """Takes this thread's place in its pool again."""
    if (worker := _here.worker) is not None:
        worker.pool.step_back(worker)


def begin_waiting(seconds: float = TICK_SECONDS) -> None:
    """Marks this thread's task as waiting for something elsewhere. It steps aside when the wait takes `seconds`."""
    if (worker := _here.worker) is not None:
        worker.started = monotonic()
        worker.patience = seconds


def end_waiting() -> None:
    """Marks this thread's task as running again."""
    if (worker := _here.worker) is not None:
        worker.pool.end_waiting(worker)


class _Worker:
    """A thread of a pool, and the state of the task that it runs."""

    __slots__ = ("aside", "busy", "long", "patience", "pool", "rewarded", "started", "woken")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        # It sleeps on its own lock.
        self.woken = threading.Lock()
        self.woken.acquire()
        self.busy = False
        self.started = 0.0
        self.long = False
        # Whether the task has added a token.
        self.rewarded = False
        # How long it waits before it steps aside; None: it isn't waiting.
        self.patience: float | None = None
        self.aside = False


class _Here(threading.local):
    worker: _Worker | None = None


_here = _Here()


class Pool(Executor):
    """At most `threads` threads, each started when it is first needed. Their names begin with `name`.

    Threads whose tasks are aside don't count.
    """

    # The number of tokens when all tasks are short; None: one for each thread.
    _fewest: int | None = 1

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._workers: list[_Worker] = []
        # The thread that became idle last is woken first: its data may still be in the processor's caches.
        self._idle: list[_Worker] = []
        self._threads = 0
        self._usual = self._tokens = self._free = self._fewest or threads
        # The number of tokens to remove when the threads that hold them are done.
        self._debt = 0
        self._aside = 0
        self._source: Source | None = None
        # Whether a thread reads from the source, and whether one was woken to read.
        self._reading = self._called = False
        self._ticking = threading.Event()
        threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Runs `call` in one of the threads, after earlier calls."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = call(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.post(run)
        return future

    def post(self, call: Callable[[], None]) -> None:
        """As `submit`, at half the cost, for a call that raises nothing and whose result isn't needed."""
        with self._lock:
            self._waiting.append(call)
            self._use_free_token()
        if not self._ticking.is_set():
            self._ticking.set()

    def read_from(self, source: Source) -> None:
        """Makes the threads read tasks from `source`, which raises nothing. Call it once."""
        with self._lock:
            self._source = source
            self._use_free_token()

    @property
    def load(self) -> int:
        """The number of tasks that wait or run."""
        return len(self._waiting) + sum([worker.busy for worker in self._workers])

    def oldest(self) -> float:
        """Returns the start of the oldest running task, in seconds of `time.monotonic`; infinity when none runs."""
        return min((worker.started for worker in self._workers if worker.busy), default=inf)

    def step_aside(self, worker: _Worker) -> bool:
        """See the function of that name."""
        with self._lock:
            return self._step_aside(worker)

    def step_back(self, worker: _Worker) -> None:
        """See the function of that name."""
        with self._lock:
            self._step_back(worker)

    def end_waiting(self, worker: _Worker) -> None:
        """See the function of that name."""
        worker.patience = None
        # With the lock: the watch may be about to put it aside.
        with self._lock:
            self._step_back(worker)
            worker.started = monotonic()

    def _step_aside(self, worker: _Worker) -> bool:
        if worker.aside:
            return True
        if self._aside >= MOST_ASIDE:
            return False
        worker.aside = True
        self._aside += 1
        self._most += 1
        self._tokens += 1
        self._free += 1
        self._use_free_token()
        return True

    def _step_back(self, worker: _Worker) -> None:
        if not worker.aside:
            return
        worker.aside = False
        self._aside -= 1
        self._most -= 1
        self._tokens -= 1
        if self._free:
            self._free -= 1
        else:
            self._debt += 1

    def _use_free_token(self) -> bool:
        """Gives a free token to a thread, if there is a task or no thread reads; called with the lock held."""
        if not self._free:
            return False
        reads = self._source is not None and not self._reading and not self._called
        if not (self._waiting or reads):
            return False
        if self._idle:
            self._idle.pop().woken.release()
        elif self._threads < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system can't start more threads. The existing ones continue.
                return False
            self._threads += 1
        else:
            return False
        self._free -= 1
        self._called = reads
        return True

    def _work(self) -> None:
        """The loop of a thread, which holds a token unless it is idle. Short tasks take no lock."""
        me = _here.worker = _Worker(self)
        with self._lock:
            self._workers.append(me)
        waiting = self._waiting
        while True:
            if not waiting:
                self._find_work(me)
                continue
            try:
                call = waiting.popleft()
            except IndexError:
                # Another thread took it first.
                continue
            me.started = monotonic()
            me.busy = True
            try:
                call()
            except Exception:
                # An exception of a task must not end the thread.
                log.exception("a task of the pool %r failed", self._name)
            me.busy = False
            if me.long or me.rewarded or me.aside or self._debt or self._tokens != self._usual:
                self._settle(me)

    def _find_work(self, me: _Worker) -> None:
        """Reads from the source, or sleeps until there is a task."""
        with self._lock:
            self._called = False
            if self._waiting:
                return
            source = None if self._reading else self._source
            if source is not None:
                self._reading = True
            else:
                self._release_token()
                self._idle.append(me)
        if source is not None:
            self._read(source, wait=True)
        else:
            me.woken.acquire()

    def _settle(self, me: _Worker) -> None:
        """Updates the tokens after a task that wasn't short, or while there are more tokens than usual."""
        with self._lock:
            self._step_back(me)
            if self._debt:
                self._debt -= 1
                sleeps = True
            elif me.long:
                self._reward(me)
                sleeps = False
            else:
                long = sum([worker.busy and worker.long for worker in self._workers])
                sleeps = bool(self._fewest) and self._tokens - 1 > self._aside + long
                self._tokens -= sleeps
            me.long = me.rewarded = False
            if sleeps:
                self._idle.append(me)
                self._use_free_token()
        if sleeps:
            me.woken.acquire()

    def _read(self, source: Source, *, wait: bool) -> None:
        """Reads tasks, which this thread and others run."""
        calls = source(wait)
        with self._lock:
            self._reading = False
            if calls is None:
                self._source = None
                return
            self._waiting.extend(calls)
            # The reading thread runs the first task itself, and another thread reads.
            for _ in range(len(calls) + (not wait)):
                if not self._use_free_token():
                    break
        if calls and not self._ticking.is_set():
            self._ticking.set()

    def _release_token(self) -> None:
        if self._debt:
            self._debt -= 1
        else:
            self._free += 1

    def _reward(self, worker: _Worker) -> None:
        """Adds a token for a long task; called with the lock held."""
        if not worker.rewarded and self._tokens < self._most:
            self._tokens += 1
            self._free += 1
        worker.rewarded = True
        while self._use_free_token():
            pass

    def _watch(self) -> None:
        """Finds tasks that take longer than a tick, and reads when no thread does."""
        quiet = 0
        while True:
            self._ticking.wait()
            sleep(TICK_SECONDS)
            source = None
            with self._lock:
                now, busy = monotonic(), False
                for worker in self._workers:
                    if not worker.busy:
                        continue
                    busy = True
                    took, patience = now - worker.started, worker.patience
                    if patience is not None and took > patience:
                        self._step_aside(worker)
                    elif took > TICK_SECONDS and not worker.rewarded and not worker.aside:
                        worker.long = True
                        self._reward(worker)
                if not self._reading and self._source is not None:
                    source = self._source
                    self._reading = True
                quiet = 0 if busy or self._waiting else quiet + 1
                if quiet > QUIET_TICKS:
                    self._ticking.clear()
            if source is not None:
                self._read(source, wait=False)


class EagerPool(Pool):
    """A pool with a token for each thread, for tasks that wait for each other, as batched requests do."""

    _fewest = None
