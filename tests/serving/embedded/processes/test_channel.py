"""Calls between two processes, here between two ends in one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tfserving.serving.embedded.errors import Code, RequestError, StartError
from tfserving.serving.embedded.processes.channel import Channel, ClosedError


class OddError(Exception):
    """Can't be made again from what it says, so that it can't be sent."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)


def refuse() -> None:
    raise RequestError(Code.NOT_FOUND, "no such thing", "there are others")


def stop() -> None:
    raise StartError("can't")


def fail() -> None:
    raise OddError(why="odd")


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel, threading.Event]]:
    one, other = socket.socketpair()
    ended = threading.Event()
    gate = threading.Event()
    methods: dict[str, Callable[..., Any]] = {
        "double": lambda x: 2 * x,
        "refuse": refuse,
        "stop": stop,
        "fail": fail,
        "wait": gate.wait,
    }
    methods["back"] = lambda x: far.call("triple", x)
    near = Channel(one, {"triple": lambda x: 3 * x}, ended.set)
    far: Channel = Channel(other, methods, lambda: None)
    yield near, far, ended
    gate.set()
    near.close()


Ends = tuple[Channel, Channel, threading.Event]


def test_calls_are_answered_and_may_call_back(ends: Ends) -> None:
    near, far, _ = ends
    assert near.call("double", 21) == 42
    assert far.call("triple", 2) == 6
    assert near.call("back", 5) == 15


def test_a_call_that_waits_keeps_no_other_waiting(ends: Ends) -> None:
    near, _, _ = ends
    waiting = near.begin("wait")
    assert [near.call("double", number) for number in range(100)] == [2 * number for number in range(100)]
    assert not waiting.done()


def test_our_errors_come_as_they_are(ends: Ends) -> None:
    near, _, _ = ends
    with pytest.raises(RequestError, match="no such thing; there are others") as error:
        near.call("refuse")
    assert (error.value.code, error.value.text) == (Code.NOT_FOUND, "no such thing")
    with pytest.raises(StartError, match="can't"):
        near.call("stop")


def test_errors_that_the_other_process_may_not_know_are_told(ends: Ends) -> None:
    near, _, _ = ends
    with pytest.raises(RequestError, match="OddError: odd") as error:
        near.call("fail")
    assert error.value.code is Code.INTERNAL
    assert near.call("double", 1) == 2


def test_a_call_may_be_given_up(ends: Ends) -> None:
    near, _, _ = ends
    with pytest.raises(RequestError, match=r"the other process has not returned from 'wait' within 0.01 s") as error:
        near.call("wait", seconds=0.01)
    assert error.value.code is Code.UNAVAILABLE
    assert near.call("double", 1) == 2


def test_a_process_that_does_not_read_keeps_no_caller_waiting() -> None:
    one, _silent = socket.socketpair()
    channel = Channel(one, {}, lambda: None)
    # More than the system keeps for who doesn't read.
    waiting = [channel.begin("double", b"x" * 100_000) for _ in range(100)]
    assert not any(call.done() for call in waiting)
    channel.close()
    with pytest.raises(ClosedError):
        waiting[-1].result(10)


def test_when_the_other_end_is_gone_all_calls_end(ends: Ends) -> None:
    near, far, ended = ends
    waiting = near.begin("wait")
    far.close()
    with pytest.raises(ClosedError):
        waiting.result(10)
    assert ended.wait(10)
    with pytest.raises(ClosedError):
        near.call("double", 1)
