"""When a call is made again: the pauses, the budget, the deadline."""

from __future__ import annotations

import time

import pytest

from tfserving.clients.errors import Call, InvalidArgument, ServingError, Unavailable
from tfserving.clients.steps import Pause, Request, Retries, RetryingSender


def ask(*, seconds: float = 60.0, repeatable: bool = True) -> Request:
    return Request("/path", b"body", Call(), time.monotonic() + seconds, repeatable=repeatable)


def attempts(sender: RetryingSender, asked: Request, *failures: ServingError) -> tuple[int, list[float]]:
    """How often `asked` was asked when the first attempts fail as given, and the pauses in between."""
    count, pauses, left = 0, [], list(failures)
    steps = sender(asked)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                step = steps.send(None)
                continue
            count += 1
            step = steps.throw(left.pop(0)) if left else steps.send(b"answer")
    except (StopIteration, ServingError):
        return count, pauses


def test_an_unavailable_server_is_asked_again() -> None:
    assert attempts(RetryingSender(Retries()), ask(), Unavailable("no"))[0] == 2
    assert attempts(RetryingSender(Retries(attempts=4)), ask(), *[Unavailable("no")] * 9)[0] == 4
    assert attempts(RetryingSender(Retries(attempts=1)), ask(), Unavailable("no"))[0] == 1


def test_other_errors_are_not_asked_again() -> None:
    assert attempts(RetryingSender(Retries()), ask(), InvalidArgument("no"))[0] == 1


def test_what_changes_the_server_is_not_asked_again() -> None:
    assert attempts(RetryingSender(Retries()), ask(repeatable=False), Unavailable("no"))[0] == 1


def test_nothing_is_asked_again_after_the_deadline() -> None:
    assert attempts(RetryingSender(Retries()), ask(seconds=-1), Unavailable("no"))[0] == 1


def test_pauses_grow_up_to_the_longest_and_are_random() -> None:
    retries = Retries(first_pause=1, longest_pause=3)
    drawn = [[retries.pause(attempt) for _ in range(500)] for attempt in (1, 2, 3, 9)]
    assert [round(max(pauses)) for pauses in drawn] == [1, 2, 3, 3]
    assert all(len(set(pauses)) > 400 and min(pauses) < 0.2 for pauses in drawn)
    _, pauses = attempts(RetryingSender(Retries(attempts=9, first_pause=0.001)), ask(), *[Unavailable("no")] * 8)
    assert len(pauses) == 8


def test_a_server_that_stays_down_is_not_asked_several_times_as_often() -> None:
    asking = RetryingSender(Retries(attempts=3, budget=10))
    counts = [attempts(asking, ask(), *[Unavailable("no")] * 3)[0] for _ in range(20)]
    assert sum(counts) == 20 + 10
    assert counts[-1] == 1


def test_calls_that_succeed_earn_retries_up_to_the_budget() -> None:
    asking = RetryingSender(Retries(budget=1))
    assert attempts(asking, ask(), Unavailable("no"))[0] == 2
    assert attempts(asking, ask(), Unavailable("no"))[0] == 1
    for _ in range(100):
        attempts(asking, ask())
    assert attempts(asking, ask(), *[Unavailable("no")] * 2)[0] == 2
    assert attempts(asking, ask(), *[Unavailable("no")] * 2)[0] == 1


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first_pause": -1}, {"longest_pause": -1}, {"budget": -0.5}])
def test_retries_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1 attempt"):
        Retries(**wrong)  # type: ignore[arg-type]
