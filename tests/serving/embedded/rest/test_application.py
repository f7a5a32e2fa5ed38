"""Where and until when a request is answered, without a network."""

from __future__ import annotations

import asyncio
import math
import threading
from time import monotonic

import pytest

from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.rest import application as module
from tfserving.serving.embedded.rest.application import SLICE_SECONDS, Application
from tfserving.serving.embedded.rest.exchange import Exchange
from tfserving.serving.embedded.rest.face import LongError, Place
from tfserving.serving.embedded.rest.http import Request, Response

LARGE = b"0" * 100
LOOP = threading.current_thread().name


class Face:
    """Answers with what the core is told: until when the request may run."""

    def __init__(self, *, short: bool = False) -> None:
        self.asked: list[tuple[str, float | None]] = []
        self.short = short

    def place(self, request: Request) -> Place:
        return Place.HERE if request.target == b"/healthz" else Place.PREDICTIONS

    def may_be_short(self, request: Request) -> bool:
        return len(request.body) < len(LARGE)

    def respond(self, _: Request, *, only_short: bool = False) -> Response:
        if only_short and not self.short:
            raise LongError
        self.asked.append((threading.current_thread().name, deadline.until))
        return Response(200, b"yes")


def taken(
    face: Face,
    until: float,
    *,
    wanted: bool = True,
    target: bytes = b"/v1/models/m:predict",
    body: bytes = b"",
    eager: bool = False,
) -> Response:
    async def take() -> Response:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        exchange = Exchange(Request("POST", target, body=body), until, lambda _, response: answer.set_result(response))
        if not wanted:
            exchange.give_up()
        Application(face, 1, eager=eager).take(exchange)  # type: ignore[arg-type]
        return await answer

    return asyncio.run(take())


def test_the_core_knows_until_when_a_request_may_run() -> None:
    face = Face()
    until = monotonic() + 1000
    assert taken(face, until).status == 200
    assert taken(face, math.inf).status == 200
    assert [each for _, each in face.asked] == [until, None]
    assert all(thread.startswith("rest-") for thread, _ in face.asked)
    assert deadline.until is None


@pytest.mark.parametrize(("seconds", "wanted", "status"), [(-1.0, True, 504), (-1.0, False, 504), (1000, False, 499)])
def test_a_request_that_nobody_waits_for_is_not_begun(seconds: float, wanted: bool, status: int) -> None:
    face = Face()
    assert taken(face, monotonic() + seconds, wanted=wanted).status == status
    assert not face.asked


def test_what_takes_no_time_is_answered_in_the_event_loop() -> None:
    face = Face()
    assert taken(face, math.inf, target=b"/healthz").status == 200
    assert face.asked == [(threading.current_thread().name, None)]


def test_what_is_short_is_answered_in_the_event_loop_until_when_it_may_run() -> None:
    face = Face(short=True)
    until = monotonic() + 1000
    assert taken(face, until).status == 200
    assert face.asked == [(LOOP, until)]
    assert deadline.until is None


@pytest.mark.parametrize(("short", "body", "eager"), [(False, b"", False), (True, LARGE, False), (True, b"", True)])
def test_what_is_long_or_large_or_batched_is_answered_in_the_pool(short: bool, body: bytes, eager: bool) -> None:
    face = Face(short=short)
    assert taken(face, math.inf, body=body, eager=eager).status == 200
    assert [thread.startswith("rest-") for thread, _ in face.asked] == [True]


class Slow(Face):
    """Answers in the event loop; each answer takes a slice, and a bit, of a time of its own."""

    now = 1000.0

    def respond(self, request: Request, *, only_short: bool = False) -> Response:
        self.now += SLICE_SECONDS * 1.01
        return super().respond(request, only_short=only_short)


def test_the_event_loop_does_other_things_after_a_slice_of_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    face = Slow(short=True)
    monkeypatch.setattr(module, "monotonic", lambda: face.now)

    async def take() -> None:
        loop = asyncio.get_running_loop()
        begun = face.now
        # uvloop's time is that when it began to look at what there is to do.
        monkeypatch.setattr(loop, "time", lambda: begun)
        application = Application(face, 1)  # type: ignore[arg-type]
        last: asyncio.Future[None] = loop.create_future()
        loop.call_soon(order.append, "other")
        for number in range(4):

            def answered(_: Exchange, __: Response, number: int = number) -> None:
                order.append(str(number))
                if number == 3:
                    last.set_result(None)

            application.take(Exchange(Request("POST", b"/v1/models/m:predict"), math.inf, answered))
        await last

    asyncio.run(take())
    assert order == ["0", "other", "1", "2", "3"]
