"""Where and until when a request is answered, without a network."""

from __future__ import annotations

import asyncio
import math
import threading
from time import monotonic

import pytest

from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.rest.application import Application
from tfserving.serving.embedded.rest.exchange import Exchange
from tfserving.serving.embedded.rest.face import Place
from tfserving.serving.embedded.rest.http import Request, Response


class Face:
    """Answers with what the core is told: until when the request may run."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None]] = []

    def place(self, request: Request) -> Place:
        return Place.HERE if request.target == b"/healthz" else Place.PREDICTIONS

    def answer(self, _: Request) -> Response:
        self.asked.append((threading.current_thread().name, deadline.until))
        return Response(200, b"yes")


def taken(face: Face, until: float, *, wanted: bool = True, target: bytes = b"/v1/models/m:predict") -> Response:
    async def take() -> Response:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        exchange = Exchange(Request("POST", target), until, lambda _, response: answer.set_result(response))
        if not wanted:
            exchange.give_up()
        Application(face, 1).take(exchange)  # type: ignore[arg-type]
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
