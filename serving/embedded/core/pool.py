"""The threads that answer requests: as few at a time as keep up, since Python runs one at a time anyway.

Threads that want to run Python at the same time make each other wait and wake up, which costs more than a small model.
So a thread needs a token to run tasks, and there is one as long as tasks are short. A task that is long in TensorFlow,
where Python is free for others, is worth one more.

                    a task was long, or takes longer than a tick
    1 token  ──────────────────────────────────────────────────────►  2 tokens … as many as threads
             ◄──────────────────────────────────────────────────────
                    a task was short, and not all other tokens are held by long ones

So a slow model has as many threads as it has requests, small models have one, and no request waits longer than a tick
for a slow one.

A task that waits for something else than TensorFlow, for its client to send or for its turn, *steps aside*: another
thread takes its place, so that what it waits for can't keep others waiting.

A pool may have a *source*, from which its threads read their tasks. A thread that has nothing to do reads, one at a
time, and runs what it read itself: a short task costs no change of threads. When one reads a long task, another thread
reads next. While all threads run tasks, the pool's watch reads, every tick.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from time import monotonic, sleep
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

# Returns tasks: those that are there, or, when it is to wait and there are none, the next ones. None: it has ended.
Source = Callable[[bool], Sequence[Callable[[], None]] | None]

# A call of TensorFlow that computes longer is long: a wake-up and a switch of threads are some 50 microseconds.
LONG_SECONDS = 0.0003
TICK_SECONDS = 0.005
# When nothing ran for so many ticks the watch stops ticking.
QUIET_TICKS = 20

# How many tasks of a pool may be aside at a time: each has a thread.
MOST_ASIDE = 256

_here = threading.local()


def call_took(seconds: float) -> None:
    """Tells the pool whose thread this is, if it is a pool's, how long this thread computed in TensorFlow.

    It is the thread's own time: what it waited for Python to be free must not count, else one more thread is a reason
    for yet another.
    """
    if seconds > LONG_SECONDS:
        task: _Task | None = getattr(_here, "task", None)
        if task is not None:
            task.long = True


def step_aside() -> bool:
    """Gives this thread's place in its pool to another thread, until `step_back`; False when too many are aside."""
    task: _Task | None = getattr(_here, "task", None)
    return task is None or task.pool.step_aside(task)


def step_back() -> None:
    """Takes this thread's place in its pool again."""
    task: _Task | None = getattr(_here, "task", None)
    if task is not None:
        task.pool.step_back(task)


def begin_waiting(seconds: float = TICK_SECONDS) -> None:
    """This thread's task waits from now on for something elsewhere: it steps aside when that takes so long."""
    task: _Task | None = getattr(_here, "task", None)
    if task is not None:
        task.started = monotonic()
        task.patience = seconds


def end_waiting() -> None:
    """What this thread's task waited for is there."""
    task: _Task | None = getattr(_here, "task", None)
    if task is not None:
        task.pool.end_waiting(task)


class _Task:
    __slots__ = ("aside", "call", "long", "patience", "pool", "rewarded", "started")

    def __init__(self, call: Callable[[], None], pool: Pool) -> None:
        self.call = call
        self.pool = pool
        self.started = 0.0
        self.long = False
        # Whether a token was made for it.
        self.rewarded = False
        # How long it waits before it steps aside; None: it doesn't wait for anything elsewhere.
        self.patience: float | None = None
        self.aside = False


class Pool(Executor):
    """At most `threads` threads, each started when it is needed first; their names begin with `name`.

    Threads whose tasks are aside don't count.
    """

    # How many tokens there are when all tasks are short; None: as many as threads.
    _fewest: int | None = 1

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._running: set[_Task] = set()
        # The last one that had something to do is woken first: what it needs may still be in the processor's caches.
        # Each sleeps on a lock of its own.
        self._idle: list[threading.Lock] = []
        self._threads = 0
        self._tokens = self._free = self._fewest or threads
        # Tokens that are to vanish when the threads that have them are done.
        self._debt = 0
        self._aside = 0
        self._source: Source | None = None
        # Whether a thread reads from the source, and whether one was woken to do so.
        self._reading = self._called = False
        self._ticking = threading.Event()
        threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Runs `call` in one of the threads, after what was submitted before."""
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
        """As `submit`, for a call that raises nothing and whose end nobody waits for here: that costs half."""
        with self._lock:
            self._waiting.append(_Task(call, self))
            self._use_free_token()
        if not self._ticking.is_set():
            self._ticking.set()

    def read_from(self, source: Source) -> None:
        """Has the threads read tasks from `source`, which raises nothing; once in a pool's life."""
        with self._lock:
            self._source = source
            self._use_free_token()

    @property
    def load(self) -> int:
        """How many tasks wait or run."""
        return len(self._waiting) + len(self._running)

    def step_aside(self, task: _Task) -> bool:
        """See the function of that name."""
        with self._lock:
            return self._step_aside(task)

    def step_back(self, task: _Task) -> None:
        """See the function of that name."""
        with self._lock:
            self._step_back(task)

    def end_waiting(self, task: _Task) -> None:
        """See the function of that name."""
        task.patience = None
        # The watch may be about to put it aside.
        with self._lock:
            self._step_back(task)
            task.started = monotonic()

    def _step_aside(self, task: _Task) -> bool:
        if task.aside:
            return True
        if self._aside >= MOST_ASIDE:
            return False
        task.aside = True
        self._aside += 1
        self._most += 1
        self._tokens += 1
        self._free += 1
        self._use_free_token()
        return True

    def _step_back(self, task: _Task) -> None:
        if not task.aside:
            return
        task.aside = False
        self._aside -= 1
        self._most -= 1
        self._tokens -= 1
        if self._free:
            self._free -= 1
        else:
            self._debt += 1

    def _use_free_token(self) -> bool:
        """Gives a token that nobody has to an idle thread, if there is a task, or nobody reads; with the lock held."""
        reads = self._source is not None and not self._reading and not self._called
        if not self._free or not (self._waiting or reads):
            return False
        if self._idle:
            self._idle.pop().release()
        elif self._threads < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system has no more threads; those that there are go on.
                return False
            self._threads += 1
        else:
            return False
        self._free -= 1
        self._called = reads
        return True

    def _work(self) -> None:
        """A thread's life; it has a token whenever it isn't idle."""
        woken = threading.Lock()
        woken.acquire()
        while True:
            with self._lock:
                self._called = False
                task = self._waiting.popleft() if self._waiting else None
                source = None if self._reading else self._source
                if task is not None:
                    task.started = monotonic()
                    self._running.add(task)
                elif source is not None:
                    self._reading = True
                else:
                    self._release_token()
                    self._idle.append(woken)
            if task is None:
                if source is None:
                    woken.acquire()
                else:
                    self._read(source, wait=True)
                continue
            _here.task = task
            try:
                task.call()
            except Exception:
                # Whatever a task forgot must not cost the pool a thread.
                log.exception("a task of the pool %r failed", self._name)
            with self._lock:
                self._running.discard(task)
                self._step_back(task)
                if self._debt:
                    self._debt -= 1
                    self._idle.append(woken)
                    self._use_free_token()
                    task = None
                elif task.long:
                    self._reward(task)
                elif self._fewest and self._tokens - 1 > self._aside + sum(running.long for running in self._running):
                    self._tokens -= 1
                    self._idle.append(woken)
                    self._use_free_token()
                    task = None
            if task is None:
                woken.acquire()

    def _read(self, source: Source, *, wait: bool) -> None:
        """Reads tasks, which this thread and others run next."""
        calls = source(wait)
        with self._lock:
            self._reading = False
            if calls is None:
                self._source = None
                return
            self._waiting.extend([_Task(call, self) for call in calls])
            # A thread that reads runs the first itself, and another one reads.
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

    def _reward(self, task: _Task) -> None:
        """Makes one more token for a long task, with the lock held."""
        if not task.rewarded and self._tokens < self._most:
            self._tokens += 1
            self._free += 1
        task.rewarded = True
        while self._use_free_token():
            pass

    def _watch(self) -> None:
        """Finds the tasks that take longer than a tick; reads when no thread does."""
        quiet = 0
        while True:
            self._ticking.wait()
            sleep(TICK_SECONDS)
            with self._lock:
                source = None if self._reading else self._source
                self._reading = self._reading or source is not None
            if source is not None:
                self._read(source, wait=False)
            with self._lock:
                now = monotonic()
                for task in list(self._running):
                    took, patience = now - task.started, task.patience
                    if patience is not None and took > patience:
                        self._step_aside(task)
                    elif took > TICK_SECONDS and not task.rewarded and not task.aside:
                        task.long = True
                        self._reward(task)
                quiet = 0 if self._running or self._waiting else quiet + 1
                if quiet > QUIET_TICKS:
                    self._ticking.clear()


class EagerPool(Pool):
    """A thread for every task, up to `threads`, for tasks that wait for each other: those that are batched."""

    _fewest = None
