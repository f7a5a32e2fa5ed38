"""The sums of what all workers counted. They never decrease, even when workers end or hang."""

from __future__ import annotations

import operator
import threading
from typing import Any

from tfserving.serving.embedded.observability.metrics import MOST_KEPT, Counted
from tfserving.serving.embedded.processes.member import Member


class Counts:
    """The last counts of each worker, and the sum of the counts of workers that have ended."""

    def __init__(self) -> None:
        self._ended: Counted = {}
        self._last: dict[Member, Counted] = {}
        self._lock = threading.Lock()

    def begin(self, member: Member) -> None:
        """Adds a worker, whose counts are still empty."""
        with self._lock:
            self._last[member] = {}

    def note(self, member: Member, counted: Counted) -> None:
        """Stores the present counts of `member`, unless it has ended."""
        with self._lock:
            if member in self._last:
                self._last[member] = counted

    def end(self, member: Member) -> None:
        """Adds the last counts of `member`, which has ended, to the sum."""
        with self._lock:
            self._ended = _sum(self._ended, self._last.pop(member, {}))

    def all(self) -> list[Counted]:
        """The counts to add up."""
        with self._lock:
            return [counted for counted in (self._ended, *self._last.values()) if counted]


def _sum(one: Counted, other: Counted) -> Counted:
    families = {name: dict(cells) for name, cells in one.items()}
    for name, cells in other.items():
        family = families.setdefault(name, {})
        for labels, cell in cells.items():
            # The series of the worker that ended last come last in the order, so they are kept.
            family[labels] = _add(family.pop(labels), cell) if labels in family else cell
            if len(family) > MOST_KEPT:
                del family[next(iter(family))]
    return families


def _add(one: Any, other: Any) -> Any:
    """The sum of two cells of a Counter or of a Histogram."""
    if isinstance(one, int):
        return one + other
    (buckets, total), (more, added) = one, other
    return list(map(operator.add, buckets, more)), total + added
