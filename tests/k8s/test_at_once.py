"""Work for many servers at once, and reads that many threads share."""

from __future__ import annotations

import threading
import time

import pytest

from tfserving.k8s.at_once import Pause, Shared, each


def test_no_more_than_allowed_at_once_and_in_order() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(number: int, pause: Pause) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        pause(0.01)
        with lock:
            now -= 1
        return number * number

    assert each(range(40), work, most=5) == [number * number for number in range(40)]
    assert most == 5
    assert each([], work) == []


def test_the_first_error_ends_the_others() -> None:
    begun: list[int] = []

    def work(number: int, pause: Pause) -> None:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        pause(60)

    started = time.monotonic()
    with pytest.raises(ValueError, match="three"):
        each(range(100), work, most=8)
    assert time.monotonic() - started < 10
    assert len(begun) <= 9


def test_an_abort_ends_the_work_before_it_is_raised() -> None:
    running = threading.Semaphore(0)
    left: list[int] = []

    def work(number: int, pause: Pause) -> None:
        running.release()
        try:
            pause(60)
        finally:
            left.append(number)

    def abort(_: float) -> None:
        if running.acquire(blocking=False):
            raise RuntimeError("aborted")

    with pytest.raises(RuntimeError, match="aborted"):
        each(range(4), work, abort, most=4)
    # Nothing changes a server once the rollback begins.
    assert len(left) >= 1
    assert not [one for one in threading.enumerate() if one.name == "at-once"]


def test_a_read_is_shared_by_those_that_wait_and_is_never_older_than_the_call() -> None:
    reads: list[float] = []

    def read() -> float:
        reads.append(time.monotonic())
        time.sleep(0.1)
        return reads[-1]

    shared = Shared(read)

    def work(_: int, __: Pause) -> None:
        called = time.monotonic()
        assert shared() >= called

    each(range(30), work, most=30)
    assert len(reads) < 10
    shared()
    before = len(reads)
    shared()
    assert len(reads) == before + 1
