"""The threads that answer: few when requests are short, enough when they are not."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from functools import partial

import pytest

from tests.servers import wait_for
from tfserving.serving.embedded.core.pool import LONG_SECONDS, EagerPool, Pool, call_took


def test_tasks_run_in_the_order_in_which_they_came() -> None:
    pool = Pool(1, "order")
    ran: list[int] = []
    wait([pool.submit(ran.append, number) for number in range(1000)])
    assert ran == list(range(1000))


def test_short_tasks_share_one_thread() -> None:
    pool = Pool(4, "short")
    assert mostly_one(future.result() for future in [pool.submit(threading.get_ident) for _ in range(500)])


def mostly_one(threads: Iterable[int]) -> bool:
    """Whether one thread ran nearly all; another one may have helped when the machine let one wait."""
    counted = Counter(threads)
    return max(counted.values()) > 0.9 * counted.total()


def test_what_a_task_returns_and_raises_is_its_futures() -> None:
    pool = Pool(2, "results")
    assert pool.submit(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result()
    assert pool.submit(lambda: "goes on").result() == "goes on"


def test_nobody_waits_longer_than_a_moment_for_tasks_that_take_long() -> None:
    pool = Pool(3, "stall")
    gate = threading.Event()
    stuck = [pool.submit(gate.wait, 30) for _ in range(2)]
    assert pool.submit(lambda: "answered").result(5) == "answered"
    assert not any(future.done() for future in stuck)
    gate.set()
    assert all(future.result(5) for future in stuck)


def test_there_are_never_more_threads_than_allowed() -> None:
    pool = Pool(2, "most")
    gate = threading.Event()
    stuck = [pool.submit(gate.wait, 30) for _ in range(2)]
    waits = pool.submit(lambda: "answered")
    with pytest.raises(TimeoutError):
        waits.result(0.2)
    gate.set()
    assert waits.result(5) == "answered"
    assert all(future.result(5) for future in stuck)


def test_long_calls_run_side_by_side() -> None:
    pool = Pool(4, "long")
    together = threading.Barrier(4)

    def call() -> int:
        # As a request does that computes for long: after the first ones there is a thread for each.
        call_took(2 * LONG_SECONDS)
        return 0

    wait([pool.submit(call) for _ in range(20)])
    assert [future.result() for future in [pool.submit(together.wait, 10) for _ in range(4)]]


def test_in_an_eager_pool_tasks_that_wait_for_each_other_meet_at_once() -> None:
    pool = EagerPool(16, "meet")
    together = threading.Barrier(16)
    begun = time.monotonic()
    for _ in range(50):
        wait([pool.submit(together.wait, 10) for _ in range(16)])
    assert time.monotonic() - begun < 5, "a tick for each thread of each round would take twenty"


def test_short_tasks_come_back_to_one_thread_after_long_ones() -> None:
    pool = Pool(4, "back")
    wait([pool.submit(call_took, 1.0) for _ in range(50)])
    for _ in range(50):
        pool.submit(int).result()
    assert mostly_one(pool.submit(threading.get_ident).result() for _ in range(200))


def test_a_task_that_is_cancelled_before_it_began_does_not_run() -> None:
    pool = Pool(1, "cancel")
    gate = threading.Event()
    stuck = pool.submit(gate.wait, 30)
    ran: list[int] = []
    cancelled: Future[None] = pool.submit(ran.append, 1)
    assert cancelled.cancel()
    gate.set()
    assert stuck.result(5)
    assert pool.submit(int).result(5) == 0
    assert ran == []
    with pytest.raises(CancelledError):
        cancelled.result()


def test_many_threads_may_submit() -> None:
    pool = Pool(4, "many")
    results: list[int] = []

    def submit(first: int) -> None:
        results.extend(future.result(10) for future in [pool.submit(int, first + number) for number in range(500)])

    threads = [threading.Thread(target=submit, args=(500 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(4000))


def test_calls_outside_of_a_pool_are_nobodys() -> None:
    call_took(1.0)


class Line:
    """Tasks that a pool reads one by one, as a library hands them over."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.readers: list[str] = []

    def put(self, *tasks: Callable[[], object] | None) -> None:
        for task in tasks:
            self._tasks.put(task)

    def read(self, wait: bool) -> list[Callable[[], object]] | None:
        try:
            task = self._tasks.get(block=wait)
        except queue.Empty:
            return []
        self.readers.append(threading.current_thread().name)
        return None if task is None else [task]


def test_the_thread_that_reads_a_short_task_runs_it() -> None:
    pool, line = Pool(4, "reads"), Line()
    ran: list[str] = []
    line.put(*[partial(lambda: ran.append(threading.current_thread().name))] * 500)
    pool.read_from(line.read)
    wait_for(lambda: len(ran) == 500)
    assert sum(one == other for one, other in zip(ran, line.readers, strict=True)) > 400
    assert mostly_one(map(hash, ran))


def test_while_one_task_read_takes_long_others_are_read_and_run() -> None:
    pool, line, gate = Pool(2, "reads-on"), Line(), threading.Event()
    ran: list[int] = []
    line.put(partial(gate.wait, 30), *[partial(ran.append, number) for number in range(20)])
    pool.read_from(line.read)
    wait_for(lambda: len(ran) == 20)
    assert not gate.is_set()
    gate.set()


def test_when_all_threads_are_busy_the_pool_reads_on_and_runs_later() -> None:
    pool, line, gate = Pool(2, "full"), Line(), threading.Event()
    ran: list[int] = []
    line.put(*[partial(gate.wait, 30)] * 2, partial(ran.append, 1))
    pool.read_from(line.read)
    wait_for(lambda: line.readers[-1:] == ["full-watch"])
    assert pool.load == 3
    assert pool.oldest() < time.monotonic()
    gate.set()
    wait_for(lambda: pool.load == 0)
    assert ran == [1]
    assert pool.oldest() == math.inf


def test_a_pool_goes_on_when_its_source_has_ended() -> None:
    pool, line = Pool(2, "ended"), Line()
    line.put(None)
    pool.read_from(line.read)
    assert pool.submit(lambda: "answered").result(5) == "answered"
