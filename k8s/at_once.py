"""The same work for many servers at once, and reads that many threads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

# Sleeps for some seconds; raises when `abort` is requested.
Pause: TypeAlias = Callable[[float], None]
Item = TypeVar("Item")
Result = TypeVar("Result")
# More threads of this process send no more requests: the interpreter is busy by then.
MOST_AT_ONCE = 32
_POLL_SECONDS = 0.05


def each(
    items: Sequence[Item],
    work: Callable[[Item, Pause], Result],
    pause: Pause = lambda _: None,
    most: int = MOST_AT_ONCE,
) -> list[Result]:
    """Return the result of `work` for each item, `most` of them at a time, in the order of the items.

    `pause` is called meanwhile; `work` gets another one, which ends it when work on another item has failed, or `pause`
    raises. Then the first error is raised, once the work in progress has ended. Ctrl-C doesn't wait for that.
    """
    number = min(most, len(items))
    if number <= 1:
        return [work(item, pause) for item in items]
    shared = _Work(items, work)
    threads = [threading.Thread(target=shared.run, name="at-once", daemon=True) for _ in range(number)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                pause(0)
    except Exception:
        shared.over.set()
        for thread in threads:
            thread.join()
        raise
    finally:
        shared.over.set()
    if shared.errors:
        raise shared.errors[0]
    return [shared.results[number] for number in range(len(items))]


class _OverError(Exception):
    """Work is no longer needed."""


class _Work(Generic[Item, Result]):
    """The items that are left, and the results so far."""

    def __init__(self, items: Sequence[Item], work: Callable[[Item, Pause], Result]) -> None:
        self._work, self._left, self._lock = work, iter(enumerate(items)), threading.Lock()
        self.over = threading.Event()
        self.results: dict[int, Result] = {}
        self.errors: list[Exception] = []

    def run(self) -> None:
        """Do the work for one item after the other."""
        while not self.over.is_set():
            with self._lock:
                turn = next(self._left, None)
            if turn is None:
                return
            number, item = turn
            try:
                self.results[number] = self._work(item, self._pause)
            except _OverError:
                return
            except Exception as error:
                self.errors.append(error)
                self.over.set()

    def _pause(self, seconds: float) -> None:
        if self.over.wait(seconds):
            raise _OverError


class Shared(Generic[Result]):
    """Calls `read` for many threads: all that wait for a call share the next one, so each result is new enough."""

    def __init__(self, read: Callable[[], Result]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._last: tuple[float, Result] | None = None

    def __call__(self) -> Result:
        """Return the result of a call that began after this one."""
        asked = time.monotonic()
        with self._lock:
            if self._last is None or self._last[0] < asked:
                began = time.monotonic()
                self._last = began, self._read()
            return self._last[1]
