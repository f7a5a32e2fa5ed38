"""Decides whether a version is worse than another from the results of requests to both, with known error rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfserving.k8s.rollout.evidence import (
    LEAST_IN_BLOCK,
    Decision,
    Failures,
    Latency,
    clean_blocks,
    clean_requests,
)
from tfserving.k8s.rollout.sample import Sample
from tfserving.serving.models_yaml.rollout import Rollout

__all__ = ["Comparison", "Decision", "Sample", "Verdict", "required"]

# The longest series for a plot.
_MOST_ROWS = 300


@dataclass(frozen=True)
class Verdict:
    """The decision so far. `reason` is what is worse; about `needed` more requests to each version make it clear."""

    decision: Decision
    reason: str = ""
    needed: int = 0


@dataclass
class _Row:
    """The results of both versions until `at`, from a number of blocks of time."""

    at: float = 0.0
    new: Sample = field(default_factory=Sample)
    old: Sample = field(default_factory=Sample)
    blocks: int = 0

    def add(self, later: _Row) -> None:
        self.at = later.at
        self.new.add(later.new)
        self.old.add(later.old)
        self.blocks += later.blocks

    def numbers(self) -> list[float | None]:
        new, old = self.new, self.old
        return [round(self.at, 3), new.total, new.failures, new.mean_ms, old.total, old.failures, old.mean_ms]


class Comparison:
    """Compares the results of requests to a new and an old version, block by block.

    A block has the requests of the same second or so. `new` and `old` name the versions in sentences.
    """

    def __init__(self, settings: Rollout, new: str = "the new version", old: str = "the old version") -> None:
        self._settings, self._names = settings, (new, old)
        self._new, self._old = Sample(), Sample()
        self._before = Sample()
        self._latency, self._failures = Latency(settings), Failures(settings)
        # If both versions share a server: failures compared only with those before.
        self._since = Failures(settings)
        # The number of blocks in each row; the last row may have fewer.
        self._series: list[_Row] = []
        self._in_row = 1
        self._at = 0.0

    @property
    def new(self) -> Sample:
        """All results of the new version."""
        return self._new

    def add(self, new: Sample, old: Sample, at: float, *, shared: bool = False) -> None:
        """Add the results of one block, which ended `at` seconds after the first began.

        A side without requests is an empty sample. Latencies are compared only if both have some in the same block. On
        a shared server, the new version can make requests to the old one fail. With `shared`, its failures are
        therefore also compared with those before the rollout alone, which are often too few to find a small difference.
        """
        self._at = max(self._at, at)
        self._new.add(new)
        self._old.add(old)
        self._latency.add(new, old, at)
        self._failures.add(new, old)
        if shared and self._before.total:
            self._since.add(new, Sample())
        self._plot(new, old, at)

    def before(self, old: Sample) -> None:
        """Add results of the old version from another time, for the comparison of failures."""
        self._old.add(old)
        self._before.add(old)
        self._failures.before(old)
        self._since.before(old)

    @property
    def latency(self) -> Decision:
        """The decision from latencies alone."""
        return self._latency.decision

    def verdict(self) -> Verdict:
        """Return the decision so far. It is never `fine` before the `window` is over."""
        if reason := self._worse(self._latency.decision, self._failures.decision, self._since.decision):
            return Verdict("worse", reason)
        if self._at < self._settings.window:
            return Verdict("open", needed=self._needed())
        latency = self._latency.decision == "fine" or not self._latency.judged
        if latency and self._failures.decision == "fine":
            return Verdict("fine")
        return Verdict("open", needed=self._needed())

    def last(self) -> Verdict:
        """Return the decision when the time is up, by the estimates. Open only without requests to the new version."""
        latency, *failures = (one.as_it_stands() for one in (self._latency, self._failures, self._since))
        if reason := self._worse(latency, *failures):
            return Verdict("worse", reason)
        return Verdict("fine" if self._new.total else "open")

    def numbers(self) -> Mapping[str, Any]:
        """Return all numbers, for JSON.

        `ratio`, `low` and `high` are None without latencies to compare. The bounds have 95 % confidence.
        """
        ratio, (low, high) = self._latency.ratio(), self._failures.interval()
        return {
            "new": self._new.numbers(),
            "old": self._old.numbers(),
            "latency": {
                "ratio": ratio and ratio.ratio,
                "low": ratio and ratio.low,
                "high": ratio and ratio.high,
                "blocks": self._latency.blocks,
                "slower_blocks": self._latency.slower,
                "decision": self._latency.decision if self._latency.judged else "not judged",
            },
            "failures": {
                "old": {"requests": self._old.total, "failures": dict(self._old.failed)},
                "more": self._failures.more,
                "low": low,
                "high": high,
                "p_value": self._failures.p_value(),
                "decision": self._failures.decision,
            },
            "series": [row.numbers() for row in self._series],
            "needed": self.verdict().needed,
        }

    def __str__(self) -> str:
        new, old = self._names
        return f"{new}: {self._new}; {old}: {self._old}; {self._times()}"

    def _times(self) -> str:
        ratio = self._latency.ratio()
        if ratio is None or not self._latency.judged:
            return "latencies not compared, because the versions never got requests at the same time"
        return f"latency ratio {ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"

    def _worse(self, latency: Decision, failures: Decision, since: Decision) -> str:
        """Return what is worse, with numbers; '' when nothing is."""
        new, old = self._names
        found = []
        if failures == "worse":
            found.append(self._more(self._failures, self._failed(self._old, old)))
        elif since == "worse":
            found.append(self._more(self._since, f"{self._failed(self._before, old)} before"))
        if latency == "worse" and (ratio := self._latency.ratio()):
            text = f"{new} takes {ratio.ratio:.2f} times as long as {old} ({ratio.low:.2f} to {ratio.high:.2f})"
            if self._new.mean_ms is not None and self._old.mean_ms is not None:
                text += f", mean {self._new.mean_ms:.1f} ms and {self._old.mean_ms:.1f} ms"
            found.append(f"{text}; {self._settings.latency:g} times is too slow")
        return "; ".join(found)

    def _more(self, failures: Failures, others: str) -> str:
        low, high = failures.interval()
        return (
            f"{self._failed(self._new, self._names[0])}, {others}: {_percent(failures.more)} more "
            f"({_percent(max(0.0, low))} to {_percent(high)}), at most {100 * self._settings.error_rate:g} % more is "
            "allowed"
        )

    def _failed(self, sample: Sample, name: str) -> str:
        text = f"{sample.failures} of {sample.total} requests to {name} failed"
        return text + (f" ({sample.failed.most_common(1)[0][0]})" if sample.failures else "")

    def _needed(self) -> int:
        """Return about how many more requests to each version make it clear, and fill the window."""
        blocks = self._latency.needed() if self._latency.judged else 0
        in_block = min(self._new.succeeded, self._old.succeeded) / max(1, self._latency.blocks)
        a_second = self._new.total / self._at if self._at else 0.0
        left = math.ceil(a_second * max(0.0, self._settings.window - self._at))
        return max(self._failures.needed(), math.ceil(blocks * in_block), left)

    def _plot(self, new: Sample, old: Sample, at: float) -> None:
        """Add to the series. When it is too long, merge pairs of rows."""
        if not self._series or self._series[-1].blocks == self._in_row:
            self._series.append(_Row())
        self._series[-1].add(_Row(at, new, old, 1))
        if len(self._series) > _MOST_ROWS:
            for first, second in zip(self._series[::2], self._series[1::2], strict=False):
                first.add(second)
            self._series, self._in_row = self._series[::2], 2 * self._in_row


def required(settings: Rollout, rate: float) -> tuple[int, float]:
    """Return about how many requests to each version, and how many seconds, show that a good version is fine.

    Assumes `rate` requests per second to each version, no failures and little variance of latencies. A busy machine
    takes longer. The seconds are infinite for a rate of 0.
    """
    if rate <= 0:
        return clean_requests(settings), math.inf
    block = max(1.0, math.ceil(LEAST_IN_BLOCK / rate))
    seconds = max(settings.window, clean_requests(settings) / rate, clean_blocks() * block)
    return math.ceil(seconds * rate), seconds


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"
