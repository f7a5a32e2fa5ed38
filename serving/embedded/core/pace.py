"""Detects short signatures, whose small requests run in the thread that reads them.

A signature starts as long. It becomes short after enough short requests in a row, none of them right after a long one.
One long request makes it long again.
"""

from __future__ import annotations

from time import monotonic

from tfserving.serving.embedded.core.pool import LONG_SECONDS

# A request that took this long, computing or not, delayed others. It may have waited for a processor, so the requests
# after it count at once.
HELD_UP_SECONDS = 0.05
ENOUGH = 16
# Long requests among short ones delay others for at most a hundredth of the time.
PATIENCE = 100


class Pace:
    """The pace of one signature. When several threads call `note` at the same time, a request may not be counted."""

    __slots__ = ("_again", "_row")

    def __init__(self) -> None:
        # The number of short requests in a row, and when they start to count, in seconds of time.monotonic.
        self._row = 0
        self._again = 0.0

    @property
    def short(self) -> bool:
        """Whether the next small request is very likely short."""
        return self._row >= ENOUGH

    def note(self, computed: float, began: float, *, failed: bool = False, much: bool = False) -> None:
        """Records a completed request that began at `began`, in seconds of time.monotonic.

        `computed` is the time of TensorFlow, in seconds. A short request that `failed` doesn't count. `much` means that
        the response is large, so writing it took long.
        """
        now = monotonic()
        if computed > LONG_SECONDS or much:
            self._row = 0
            # Not the total time, most of which may have been a wait for a processor.
            self._again = now + PATIENCE * max(computed, LONG_SECONDS)
        elif now - began > HELD_UP_SECONDS:
            self._row = 0
        elif self._row < ENOUGH and not failed and now >= self._again:
            self._row += 1
