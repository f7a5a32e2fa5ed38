"""Slots: a model has its share of them, the others wait in turn, and nobody waits longer than its deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import tensorflow as tf

from tfserving.serving.embedded.core import pool as pools
from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.core.pool import Pool
from tfserving.serving.embedded.core.slots import Slots, has_loops
from tfserving.serving.embedded.errors import Code, RequestError


def test_a_model_has_its_share_and_leaves_the_rest_to_others() -> None:
    slots = Slots(count=4, share=2)
    with slots.taken("a", 1) as (one, left), slots.taken("a", 1) as (two, _), slots.taken("b", None) as (three, none):
        assert len({one, two, three}) == 3
        assert left is not None
        assert 0 < left <= 1
        assert none is None
        begun = time.monotonic()
        with pytest.raises(RequestError) as error, slots.taken("a", 0.05):
            pass
        assert error.value.code is Code.DEADLINE_EXCEEDED
        assert 0.05 <= time.monotonic() - begun < 5
    with slots.taken("a", 1), slots.taken("a", 1):
        pass


def test_who_waits_gets_the_slot_that_is_given_back_in_turn() -> None:
    slots = Slots(count=1, share=1)
    order: list[int] = []
    waiting = threading.Semaphore(0)

    def run(number: int) -> None:
        waiting.release()
        with slots.taken("a", 30):
            order.append(number)

    with ThreadPoolExecutor(3) as pool:
        with slots.taken("a", 30):
            futures = []
            for number in range(3):
                futures.append(pool.submit(run, number))
                waiting.acquire()
                while len(slots._waiting) <= number:
                    time.sleep(0.001)
        wait(futures)
    assert order == [0, 1, 2]
    assert not slots._taken


def test_the_requests_own_deadline_counts_before_the_longest_run() -> None:
    slots = Slots(count=1, share=1)
    deadline.until = time.monotonic() + 0.5
    try:
        with slots.taken("a", 100) as (_, left):
            assert left is not None
            assert left <= 0.5
        deadline.until = time.monotonic() - 1
        with pytest.raises(RequestError, match="Timed out"), slots.taken("a", 100):
            pass
    finally:
        deadline.until = None
    with slots.taken("a", 100):
        pass


def test_who_waits_for_a_slot_gives_its_thread_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MOST_ASIDE", 2)
    slots, pool = Slots(count=1, share=1), Pool(1, "aside")

    def run() -> str:
        try:
            with slots.taken("a", 30):
                return "ran"
        except RequestError as error:
            return error.code.name

    with slots.taken("a", 30):
        futures = [pool.submit(run) for _ in range(4)]
        # The pool's one thread is free for others, and beyond the two that may wait none does.
        assert pool.submit(lambda: "answered").result(10) == "answered"
        assert sorted(future.done() for future in futures) == [False, False, True, True]
    assert sorted(future.result(10) for future in futures) == ["RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "ran", "ran"]
    # All is as it was: one thread at a time.
    gate = threading.Event()
    stuck = pool.submit(gate.wait, 30)
    waits = pool.submit(lambda: "answered")
    with pytest.raises(TimeoutError):
        waits.result(0.2)
    gate.set()
    assert (stuck.result(10), waits.result(10)) == (True, "answered")


def test_loops_are_seen_wherever_they_are() -> None:
    plain, loop = (
        tf.function(run, input_signature=[tf.TensorSpec([], tf.int32)])
        for run in (lambda x: x * 2, lambda x: tf.while_loop(lambda x: x < 10, lambda x: (x + 1,), [x])[0])
    )
    calls = tf.function(lambda x: loop(x) + 1, input_signature=[tf.TensorSpec([], tf.int32)])
    assert [has_loops(one.get_concrete_function().graph.as_graph_def()) for one in (plain, loop, calls)] == [
        False,
        True,
        True,
    ]
    with tf.Graph().as_default() as graph:
        tf.raw_ops.LoopCond(input=True)
    assert has_loops(graph.as_graph_def())
