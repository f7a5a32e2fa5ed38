from __future__ import annotations

from collections.abc import Callable

from tfserving.serving.embedded.rest.limits import Held


def client(left: list[str], name: str) -> Callable[[], None]:
    return lambda: left.append(name)


def test_those_that_have_waited_longest_make_room() -> None:
    left: list[str] = []
    first, second, third = (client(left, name) for name in ("first", "second", "third"))
    held = Held(100)
    assert held.wait(first, 40)
    assert held.wait(second, 50)
    assert held.wait(first, 45)
    assert not left
    assert held.wait(third, 60)
    assert left == ["first", "second"]
    # Its own growth is what is too much.
    assert not held.wait(third, 101)


def test_what_is_being_answered_is_not_given_up() -> None:
    left: list[str] = []
    first, second = (client(left, name) for name in ("first", "second"))
    held = Held(100)
    assert held.wait(first, 80)
    kept = held.keep(first)
    assert not held.wait(second, 30)
    held.leave(second)
    assert held.wait(second, 20)
    held.free(kept)
    assert held.wait(second, 100)
    assert not left
