"""The results of requests to one version: latencies of the successful ones, and reasons of the failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfserving.clients.metrics import Page
from tfserving.clients.printable import printable

# Buckets for latencies that are known one by one: the ratio of two successive bounds.
_GROWTH = 2**0.25
_LEAST_MS, _MOST_MS = 0.01, 1e6
# Reasons of failures come from outside: limits of their number and length.
_MOST_REASONS, _LONGEST_REASON = 20, 200
_OTHER = "other reasons"


@dataclass
class Sample:
    """Requests to one version: `succeeded` is their number, `seconds` their total time; `failed` counts by reason.

    `buckets` counts the successful ones by latency: the key is the upper bound in milliseconds, and the bound before is
    the lower one. `logs` is the sum of the natural logarithms of the latencies in seconds. It is None when the
    latencies aren't known one by one, as on a metrics page.
    """

    succeeded: int = 0
    seconds: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    logs: float | None = None

    @classmethod
    def of_page(cls, page: Page) -> Sample:
        """Create a sample from a metrics page, whose buckets are cumulative, in microseconds.

        The page may count more latencies than `page.answered` (see Page.without). Then their mean is used for all.
        """
        found, below, top = Counter[float](), 0, 0.0
        for bound in sorted(page.buckets):
            # TensorFlow Serving's bounds grow by 1.8. The last one is infinite, which JSON doesn't support.
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
        """Create a sample from the latencies of successful requests, in seconds, and the reasons of the failures."""
        kept = [min(max(one, _LEAST_MS / 1000), _MOST_MS / 1000) for one in seconds]
        buckets = Counter(_GROWTH ** math.ceil(math.log(1000 * one, _GROWTH) - 1e-9) for one in kept)
        return cls(len(kept), sum(kept), _printable(failed or {}), buckets, sum(map(math.log, kept)))

    def add(self, other: Sample) -> None:
        """Add the results of other requests."""
        if not self.succeeded:
            self.logs = other.logs
        elif other.succeeded:
            self.logs = None if self.logs is None or other.logs is None else self.logs + other.logs
        self.succeeded += other.succeeded
        self.seconds += other.seconds
        self.failed = _known({**self.failed, **{key: self.failed[key] + more for key, more in other.failed.items()}})
        self.buckets.update(other.buckets)

    @property
    def failures(self) -> int:
        """The number of failed requests."""
        return self.failed.total()

    @property
    def total(self) -> int:
        """The number of all requests."""
        return self.succeeded + self.failures

    @property
    def mean_ms(self) -> float | None:
        """The mean latency of successful requests in milliseconds; None without any."""
        return 1000 * self.seconds / self.succeeded if self.succeeded else None

    def quantile_ms(self, part: float) -> float | None:
        """Return a quantile of the latencies in milliseconds, interpolated in its bucket; None without any."""
        wanted, below, low = part * self.buckets.total(), 0, 0.0
        for bound in sorted(self.buckets):
            count = self.buckets[bound]
            if below + count >= wanted and count:
                # The bounds grow by at most 1.8: empty buckets before this one were left out.
                low = max(low, bound / (1.8 if self.logs is None else _GROWTH))
                return low + (bound - low) * (wanted - below) / count
            below, low = below + count, bound
        return None

    def numbers(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
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
        text = f"{self.total} requests, {self.failures} failed"
        if self.failures:
            text += f" ({self.failed.most_common(1)[0][0]})"
        p99 = self.quantile_ms(0.99)
        if self.mean_ms is not None and p99 is not None:
            text += f", mean {self.mean_ms:.1f} ms, p99 {p99:.1f} ms"
        return text


def _known(failed: Mapping[str, int]) -> Counter[str]:
    """Return the counts by reason; rare reasons are counted together."""
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
