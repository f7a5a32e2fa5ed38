"""The outcome of requests to one version: how many succeeded in what time, and why the others failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfserving.clients.metrics import Page
from tfserving.clients.printable import printable

# Buckets of latencies that are known one by one: each bound is so many times the one before it.
_GROWTH = 2**0.25
_LEAST_MS, _MOST_MS = 0.01, 1e6
# Reasons of failures come from outside: so many are kept, of such a length.
_MOST_REASONS, _LONGEST_REASON = 20, 200
_OTHER = "other reasons"


@dataclass
class Sample:
    """Requests to one version: `answered` succeeded, in `seconds` together; `failed` counts the others by reason.

    `buckets` counts those that succeeded by latency: the key is the upper bound in milliseconds, and the bound before
    is the lower one. `logs` is the sum of the natural logarithms of the latencies in seconds. It is None when the
    latencies are not known one by one, as on a metrics page.
    """

    answered: int = 0
    seconds: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    logs: float | None = None

    @classmethod
    def of_page(cls, page: Page) -> Sample:
        """From a metrics page, whose buckets are cumulative, in microseconds.

        The page may count more latencies than `page.answered` (see Page.without); their mean is taken for all.
        """
        found, below, top = Counter[float](), 0, 0.0
        for bound in sorted(page.buckets):
            # TensorFlow Serving's bounds grow by 1.8. The last one is infinite, which JSON does not have.
            top = bound if math.isfinite(bound) else 1.8 * top
            count = page.buckets[bound] - below
            if count > 0:
                found[top / 1000] += count
            below = max(below, page.buckets[bound])
        seconds = page.microseconds / 1e6
        if below:
            seconds *= page.answered / below
        return cls(page.answered, seconds, _printable(page.failed), found)

    @classmethod
    def of_seconds(cls, seconds: Iterable[float], failed: Mapping[str, int] | None = None) -> Sample:
        """From the latency of each request that succeeded, in seconds, and the reasons of the others."""
        kept = [min(max(one, _LEAST_MS / 1000), _MOST_MS / 1000) for one in seconds]
        buckets = Counter(_GROWTH ** math.ceil(math.log(1000 * one, _GROWTH) - 1e-9) for one in kept)
        return cls(len(kept), sum(kept), _printable(failed or {}), buckets, sum(map(math.log, kept)))

    def add(self, other: Sample) -> None:
        """Adds the outcome of other requests."""
        if not self.answered:
            self.logs = other.logs
        elif other.answered:
            self.logs = None if self.logs is None or other.logs is None else self.logs + other.logs
        self.answered += other.answered
        self.seconds += other.seconds
        self.failed = _known({**self.failed, **{key: self.failed[key] + more for key, more in other.failed.items()}})
        self.buckets.update(other.buckets)

    @property
    def failures(self) -> int:
        """How many failed."""
        return self.failed.total()

    @property
    def total(self) -> int:
        """All requests."""
        return self.answered + self.failures

    @property
    def mean_ms(self) -> float | None:
        """The mean latency of those that succeeded in milliseconds; None without any."""
        return 1000 * self.seconds / self.answered if self.answered else None

    def quantile_ms(self, part: float) -> float | None:
        """The latency that this part does not exceed, in milliseconds, interpolated in its bucket; None without any."""
        wanted, below, low = part * self.buckets.total(), 0, 0.0
        for bound in sorted(self.buckets):
            count = self.buckets[bound]
            if below + count >= wanted and count:
                # The bounds grow by 1.8 at most: the bucket does not begin at a bound that was left out as empty.
                low = max(low, bound / (1.8 if self.logs is None else _GROWTH))
                return low + (bound - low) * (wanted - below) / count
            below, low = below + count, bound
        return None

    def numbers(self) -> dict[str, Any]:
        """All that is known, as JSON has it."""
        return {
            "requests": self.total,
            "failed": self.failures,
            "failures": dict(self.failed.most_common()),
            "mean_ms": self.mean_ms,
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "histogram_ms": [[bound, self.buckets[bound]] for bound in sorted(self.buckets)],
        }

    def __str__(self) -> str:
        said = f"{self.total} requests, {self.failures} failed"
        if self.failures:
            said += f" ({self.failed.most_common(1)[0][0]})"
        p99 = self.quantile_ms(0.99)
        if self.mean_ms is not None and p99 is not None:
            said += f", mean {self.mean_ms:.1f} ms, p99 {p99:.1f} ms"
        return said


def _known(failed: Mapping[str, int]) -> Counter[str]:
    """Counts by reason: the most frequent ones by name."""
    found = Counter[str]()
    for reason, count in Counter(failed).most_common():
        if count > 0:
            found[reason if len(found) < _MOST_REASONS else _OTHER] += count
    return found


def _printable(failed: Mapping[str, int]) -> Counter[str]:
    found = Counter[str]()
    for reason, count in failed.items():
        found[printable(reason, _LONGEST_REASON)] += count
    return _known(found)
