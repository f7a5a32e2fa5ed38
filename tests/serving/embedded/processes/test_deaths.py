from __future__ import annotations

import signal

import pytest

from tfserving.serving.embedded.processes.deaths import Deaths


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            -signal.SIGABRT,
            "3 workers ended by SIGABRT within 20 s: TensorFlow ends the process when one of its checks",
        ),
        (-signal.SIGSEGV, "3 workers ended by SIGSEGV within 20 s: an operation accessed invalid memory"),
        (-signal.SIGKILL, "3 workers ended by SIGKILL within 20 s: the system kills processes when memory is short"),
        (1, "3 workers ended by exit code 1 within 20 s: the process ended by itself"),
    ],
)
def test_the_third_death_of_a_kind_in_a_minute_says_what_to_look_for(code: int, said: str) -> None:
    deaths = Deaths()
    assert [deaths.note(code, now) for now in (100.0, 110.0)] == ["", ""]
    assert deaths.note(code, 120.0).startswith(said)
    assert deaths.note(code, 130.0) == "", "that was said a moment ago"
    assert deaths.note(code, 180.0)


def test_deaths_now_and_then_or_of_different_kinds_say_nothing() -> None:
    deaths = Deaths()
    assert not any(deaths.note(-signal.SIGABRT, now) for now in (0.0, 59.0, 118.0, 177.0))
    assert not any(deaths.note(-number, 300.0) for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL))
