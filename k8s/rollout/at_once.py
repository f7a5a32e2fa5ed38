"""The same work for many servers at once, and reads that many threads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tfserving.k8s.rollout.pausing import Pause

Item = TypeVar("Item")
Result = TypeVar("Result")
# More threads of this process send no more requests: the interpreter is busy by then.
MOST_AT_ONCE = 32
_POLL_SECONDS = 0.05


def each(
    items: Sequence[Item], work: Callable[[Item, Pause], Result], pause: Pause, most: int = MOST_AT_ONCE
) -> list[Result]:
    """Return the result of `work` for each item, `most` of them at a time, in the order of the items.

    `pause` is called meanwhile; `work` gets another one, which ends it when work on another item has failed, or `pause`
    raises. Then the first error is raised, once the work in progress has ended. Ctrl-C doesn't wait for that.
    """
    if min(most, len(items)) < 2:  # noqa: PLR2004
        return [work(item, pause) for item in items]
    over, lock, left = threading.Event(), threading.Lock(), iter(enumerate(items))
    results: dict[int, Result] = {}
    errors: list[Exception] = []

    def patiently(seconds: float) -> None:
        if over.wait(seconds):
            raise _OverError

    def run() -> None:
        while not over.is_set():
            with lock:
                number, item = next(left, (-1, None))
            if item is None:
                return
            try:
                results[number] = work(item, patiently)
            except _OverError:
                return
            except Exception as error:
                errors.append(error)
                over.set()

    threads = [threading.Thread(target=run, name="at-once", daemon=True) for _ in range(min(most, len(items)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                pause(0)
    except Exception:
        over.set()
        for thread in threads:
            thread.join()
        raise
    finally:
        over.set()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(items))]


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


class _OverError(Exception):
    """Work is no longer needed."""
