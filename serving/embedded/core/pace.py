"""Which signatures are short: their small requests are answered where they are read, without another thread.

A signature is long at first. It becomes short when enough of its requests in a row were short, none of them right after
a long one. The first long one makes it long again.
"""

from __future__ import annotations

from time import monotonic

from tfserving.serving.embedded.core.pool import LONG_SECONDS

# A request that took so long, computing or not, held others up. It may have waited for a processor, so those after it
# need no time to be short again.
HELD_UP_SECONDS = 0.05
ENOUGH = 16
# Long requests among short ones hold others up for at most a hundredth of the time.
PATIENCE = 100


class Pace:
    """The pace of one signature. When threads note at the same time a request may not count."""

    __slots__ = ("_again", "_row")

    def __init__(self) -> None:
        # How many short ones came in a row, and from when on they count, in seconds of time.monotonic.
        self._row = 0
        self._again = 0.0

    @property
    def short(self) -> bool:
        """Whether the next small request is as good as certain to be short."""
        return self._row >= ENOUGH

    def note(self, computed: float, began: float, *, failed: bool = False, much: bool = False) -> None:
        """Notes a request that began at `began`, in seconds of time.monotonic, and has ended.

        TensorFlow `computed` for so many seconds. A short one that `failed` says nothing about others. With `much` the
        answer is large, so that writing it took long.
        """
        now = monotonic()
        if computed > LONG_SECONDS or much:
            self._row = 0
            # Not the time in all, most of which it may have waited for a processor.
            self._again = now + PATIENCE * max(computed, LONG_SECONDS)
        elif now - began > HELD_UP_SECONDS:
            self._row = 0
        elif self._row < ENOUGH and not failed and now >= self._again:
            self._row += 1
