"""Which signatures count as short, without a clock that anybody waits for."""

from __future__ import annotations

import pytest

from tfserving.serving.embedded.core import pace as module
from tfserving.serving.embedded.core.pace import ENOUGH, HELD_UP_SECONDS, PATIENCE, Pace
from tfserving.serving.embedded.core.pool import LONG_SECONDS

SHORT, LONG = LONG_SECONDS / 10, LONG_SECONDS * 10


class Clock:
    """A time that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def note(self, pace: Pace, computed: float, *, times: int = 1, took: float = 0.0, **how: bool) -> None:
        for _ in range(times):
            pace.note(computed, self.now - took, **how)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_signature_is_short_after_enough_short_requests(clock: Clock) -> None:
    pace = Pace()
    assert not pace.short
    clock.note(pace, SHORT, times=ENOUGH - 1)
    assert not pace.short
    clock.note(pace, SHORT)
    assert pace.short


@pytest.mark.parametrize(
    ("computed", "took", "much"),
    [(LONG, 0.0, False), (SHORT, HELD_UP_SECONDS * 2, False), (SHORT, 0.0, True)],
    ids=["computes long", "waits long", "much to write"],
)
def test_one_long_request_is_enough_to_be_long(clock: Clock, computed: float, took: float, much: bool) -> None:
    pace = Pace()
    clock.note(pace, SHORT, times=ENOUGH)
    clock.note(pace, computed, took=took, much=much)
    assert not pace.short
    clock.now += 3600
    clock.note(pace, SHORT, times=ENOUGH)
    assert pace.short


def test_long_requests_among_short_ones_hold_others_up_for_a_hundredth_of_the_time(clock: Clock) -> None:
    pace = Pace()
    clock.note(pace, LONG)
    clock.now += LONG * PATIENCE * 0.99
    clock.note(pace, SHORT, times=10 * ENOUGH)
    assert not pace.short
    clock.now += LONG * PATIENCE * 0.02
    clock.note(pace, SHORT, times=ENOUGH)
    assert pace.short


def test_a_request_that_fails_makes_nothing_short(clock: Clock) -> None:
    pace = Pace()
    clock.note(pace, SHORT, times=10 * ENOUGH, failed=True)
    assert not pace.short
    clock.note(pace, SHORT, times=ENOUGH)
    clock.note(pace, LONG, failed=True)
    assert not pace.short
