"""Slots: the threads in which TensorFlow runs graphs with loops, which may never end by themselves.

A loop is cancelled at its deadline. TensorFlow checks for cancellation before each iteration, and nowhere else in a
graph. It can only be cancelled when it doesn't run in the thread that waits for it, so a slot is a thread of
TensorFlow. A graph without loops ends by itself. It runs in the thread that serves the request, which costs less.

              a slot is free, and the model has fewer than its share           the run ends, or is cancelled
    request ──────────────────────────────────────────────────────► it runs ──────────────────────────────► complete
       └── else it steps aside and waits, in turn ───► its deadline passes: DEADLINE_EXCEEDED

So a model that never ends occupies its share of slots until the deadlines of its requests, and other models continue.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from tfserving.serving.embedded.core.deadline import deadline, too_late
from tfserving.serving.embedded.core.pool import MOST_ASIDE, begin_waiting, end_waiting, step_aside, step_back
from tfserving.serving.embedded.errors import Code, RequestError

# The operations that make a loop: those of tf.while_loop, and those that TensorFlow converts them to.
LOOPS = frozenset(("While", "StatelessWhile", "_While", "For", "LoopCond", "Enter", "RefEnter", "NextIteration"))
MOST_SLOTS = 256
# A run uses a processor, so more runs at a time slow each other down.
SHARE = 2 * (os.cpu_count() or 1)
PATIENCE_SECONDS = 1.0
COUNT = min(4 * SHARE, MOST_SLOTS)


def has_loops(graph_def: Any) -> bool:
    """Returns whether a GraphDef, or a function in it, contains a loop."""
    return any(node.op in LOOPS for node in graph_def.node) or any(
        node.op in LOOPS for function in graph_def.library.function for node in function.node_def
    )


class Slots:
    """`count` slots, numbered from 0. A model has at most `share` of them at a time."""

    def __init__(self, count: int = COUNT, share: int = SHARE) -> None:
        self.count = count
        self._free = list(range(count))
        self._share = min(share, count)
        self._taken: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, model: str, longest: float | None) -> Iterator[tuple[int, float | None]]:
        """Yields a slot for `model`, and the seconds that its run may take; `longest` without a deadline.

        Raises RequestError: DEADLINE_EXCEEDED when no slot is free in time, RESOURCE_EXHAUSTED when too many wait.
        """
        until = deadline.until
        if until is None and longest is not None:
            until = monotonic() + longest
        slot = self._take(model, until)
        try:
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                raise too_late()
            # A loop that XLA compiled can't be cancelled. Then another thread takes the place of the waiting one.
            begin_waiting(PATIENCE_SECONDS)
            yield slot, left
        finally:
            end_waiting()
            self._give(model, slot)

    def _take(self, model: str, until: float | None) -> int:
        with self._lock:
            if self._free and self._taken[model] < self._share:
                self._taken[model] += 1
                return self._free.pop()
            waiter = _Waiter(model)
            self._waiting.append(waiter)
        if not step_aside():
            if not self._leave(waiter):
                self._give(model, waiter.slot)
            text = f"{MOST_ASIDE} requests are already waiting for models with loops; try again later"
            raise RequestError(Code.RESOURCE_EXHAUSTED, text)
        try:
            waiter.event.wait(None if until is None else max(0.0, until - monotonic()))
        finally:
            step_back()
        if self._leave(waiter):
            raise too_late()
        return waiter.slot

    def _leave(self, waiter: _Waiter) -> bool:
        """Removes `waiter` from the queue; returns False when it has a slot."""
        with self._lock:
            if waiter.event.is_set():
                return False
            self._waiting.remove(waiter)
            return True

    def _give(self, model: str, slot: int) -> None:
        with self._lock:
            self._free.append(slot)
            self._taken[model] -= 1
            if not self._taken[model]:
                del self._taken[model]
            for index, waiter in enumerate(self._waiting):
                if self._taken[waiter.model] < self._share:
                    del self._waiting[index]
                    self._taken[waiter.model] += 1
                    waiter.slot = self._free.pop()
                    waiter.event.set()
                    return


class _Waiter:
    __slots__ = ("event", "model", "slot")

    def __init__(self, model: str) -> None:
        self.model = model
        self.event = threading.Event()
        self.slot = -1
