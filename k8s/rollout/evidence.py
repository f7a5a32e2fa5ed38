"""Sequential tests of a new version against an old one, for latency and for failures.

Both tests are repeated as the data grows, at sizes that are fixed beforehand and don't depend on the results. Each look
at the data has a share of the error rate, and all shares add up to 1 (alpha spending). So the error rates hold at any
time at which the comparison ends.

Latency: the unit is a block of time in which both versions got requests. A stall that delays many requests at once
counts as one block. The mean latencies of each block are compared. A Wilcoxon signed-rank test decides whether the new
version lies beyond the boundary, the square root of the allowed ratio (halfway between "as fast" and the allowed ratio
on a logarithmic scale). The ratio is the Hodges-Lehmann estimate of the same test.

Failures: Fisher's exact test decides whether more of the new version's requests fail. Failures that come in bursts
count less: both counts are divided by the design effect, the variance between blocks over that of independent
failures (Rao and Scott 1992). The confidence bound of the difference is Newcombe's (1998), from Clopper-Pearson
bounds of each part (with divided counts: Korn and Graubard 1998).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from tfserving.k8s.rollout.sample import Sample
from tfserving.serving.models_yaml.rollout import Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Decision: TypeAlias = Literal["worse", "fine", "open"]

# Maximum error rates of a test: false alarms for a version as good as the old one (`ALARM`), and misses of one that is
# bad enough to stop (`MISS`). A rollout has several comparisons of two tests each. A bad version has to pass all of
# them.
ALARM, MISS = 0.005, 0.02
# Of the printed confidence intervals.
_CONFIDENCE = 0.95
# The minimum of successful requests to each version in a block.
LEAST_IN_BLOCK = 3
# With fewer blocks, the latency is unknown.
_LEAST_BLOCKS = 5
# A block that is incomplete after this many seconds is dropped: its two sides lie too far apart.
_LONGEST_BLOCK = 15.0
# The numbers of blocks at which the test is repeated. From the last one on, pairs of blocks are merged.
_LOOKS = (10, 14, 20, 28, 40, 56, 80)
# The first look at failures comes after this many requests to the new version, each next one at a multiple.
_FIRST, _GROWTH = 6, math.sqrt(2)
# When the time is up, an unclear difference counts as worse if its p-value is below this.
_AS_IT_STANDS = 0.01


def _share(look: int, early: int = 4) -> float:
    """Return the share of the error rate of look 1, 2, … All of them add up to 1, the first `early` to a half."""
    return early / ((early + look - 1) * (early + look))


@dataclass
class _Block:
    """The results of both versions since `began`."""

    began: float
    new: Sample = field(default_factory=Sample)
    old: Sample = field(default_factory=Sample)

    @property
    def complete(self) -> bool:
        return min(self.new.succeeded, self.old.succeeded) >= LEAST_IN_BLOCK

    def averages(self) -> tuple[float, float]:
        """Return the average latency of the new and the old version in milliseconds.

        It is the geometric mean if each latency is known, since a single slow request hardly changes that.
        """
        new, old = self.new, self.old
        if new.logs is not None and old.logs is not None:
            return 1000 * math.exp(new.logs / new.succeeded), 1000 * math.exp(old.logs / old.succeeded)
        return 1000 * max(new.seconds, 1e-9) / new.succeeded, 1000 * max(old.seconds, 1e-9) / old.succeeded


@dataclass(frozen=True)
class Ratio:
    """The latency of the new version relative to the old one, with the bounds of 95 % confidence."""

    ratio: float
    low: float
    high: float


class Latency:
    """Tests whether requests to the new version take longer."""

    def __init__(self, settings: Rollout) -> None:
        self._settings = settings
        self._pending: _Block | None = None
        # For each block: the logarithm of the ratio, and that of the boundary.
        self._logs: list[tuple[float, float]] = []
        self._merging: list[tuple[float, float]] = []
        self._merged = 1
        self._looks = 0
        self._at = 0.0
        # The number of blocks with enough requests to both, and of those in which the new one was beyond the boundary.
        self.blocks = self.slower = 0
        self.decision: Decision = "open"

    def add(self, new: Sample, old: Sample, at: float) -> None:
        """Add the results of one block, which ended at `at`."""
        if self._pending is None or at - self._pending.began > _LONGEST_BLOCK:
            self._pending = _Block(self._at)
        self._at = at
        self._pending.new.add(new)
        self._pending.old.add(old)
        if self._pending.complete:
            self._count(*self._pending.averages())
            self._pending = None

    @property
    def judged(self) -> bool:
        """Whether both versions get requests at the same time often enough to compare them."""
        return self.blocks > 0 and self.blocks >= self._at / _LONGEST_BLOCK

    def ratio(self) -> Ratio | None:
        """Return the estimate so far; None without a block."""
        if not self._logs:
            return None
        import numpy as np

        centre, low, high = _hodges_lehmann(np.array([ratio for ratio, _ in self._logs]))
        return Ratio(math.exp(centre), math.exp(low), math.exp(high))

    def as_it_stands(self) -> Decision:
        """Return the decision by the estimate alone."""
        if self.decision != "open" or len(self._logs) < _LEAST_BLOCKS or not self.judged:
            return self.decision
        return "worse" if _hodges_lehmann(self._beyond())[0] > 0 else "fine"

    def needed(self) -> int:
        """Return about how many more blocks make it clear."""
        if self.decision != "open":
            return 0
        import numpy as np
        from scipy.special import ndtri

        size = next(size for size in _LOOKS if size > len(self._logs))
        if len(self._logs) >= _LEAST_BLOCKS:
            beyond = self._beyond()
            centre, spread = abs(float(np.median(beyond))), float(np.std(beyond))
            wanted = (-ndtri(MISS * _share(self._looks + 1)) * spread / max(centre, 1e-3)) ** 2
            size = max(size, min(math.ceil(wanted), 10 * _LOOKS[-1]))
        return (size - len(self._logs)) * self._merged - len(self._merging)

    def _beyond(self) -> NDArray[np.float64]:
        """Return by how much the new version is beyond the boundary in each block."""
        import numpy as np

        return np.array([ratio - boundary for ratio, boundary in self._logs])

    def _count(self, new: float, old: float) -> None:
        """Count a block with these averages in milliseconds."""
        allowed = max(self._settings.latency * old, old + self._settings.slack_ms)
        ratio, boundary = math.log(new / old), math.log(allowed / old) / 2
        self.blocks += 1
        self.slower += ratio > boundary
        self._merging.append((ratio, boundary))
        if len(self._merging) < self._merged:
            return
        self._logs.append(_mean(self._merging))
        self._merging = []
        if len(self._logs) == _LOOKS[-1]:
            self._logs = [_mean(self._logs[index : index + 2]) for index in range(0, len(self._logs), 2)]
            self._merged *= 2
        if len(self._logs) in _LOOKS:
            self._look()

    def _look(self) -> None:
        from scipy.stats import wilcoxon

        self._looks += 1
        beyond, share = self._beyond(), _share(self._looks)
        if self.decision == "worse" or not beyond.any():
            return
        if wilcoxon(beyond, alternative="greater").pvalue < ALARM * share:
            self.decision = "worse"
        elif wilcoxon(beyond, alternative="less").pvalue < MISS * share:
            self.decision = "fine"


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(one for one, _ in pairs) / len(pairs), sum(one for _, one in pairs) / len(pairs)


def _hodges_lehmann(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the centre of symmetrically distributed values, and its confidence interval, from the signed ranks."""
    import numpy as np
    from scipy.special import ndtri

    count = len(values)
    walsh = np.sort(((values[:, None] + values[None, :]) / 2)[np.triu_indices(count)])
    spread = -ndtri((1 - _CONFIDENCE) / 2) * math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    rank = max(0, math.floor(count * (count + 1) / 4 - spread))
    return float(np.median(walsh)), float(walsh[rank]), float(walsh[-1 - rank])


@dataclass
class _Failing:
    """Requests to one version and their failures, in total and for those known block by block."""

    requests: int = 0
    failed: int = 0
    _blocks: int = 0
    _in_blocks: int = 0
    _failed_in_blocks: int = 0
    _squares: float = 0.0

    def add(self, sample: Sample, *, block: bool = True) -> None:
        self.requests += sample.total
        self.failed += sample.failures
        if block and sample.total:
            self._blocks += 1
            self._in_blocks += sample.total
            self._failed_in_blocks += sample.failures
            self._squares += sample.failures**2 / sample.total

    @property
    def part(self) -> float:
        return self.failed / self.requests if self.requests else 0.0

    def design_effect(self) -> float:
        """Return the design effect, at least 1: the variance between blocks over that of independent failures."""
        failed = self._failed_in_blocks
        if failed in (0, self._in_blocks):
            return 1.0
        if self._blocks == 1:
            return float(failed)
        part = failed / self._in_blocks
        between = (self._squares - failed * part) / (self._blocks - 1)
        return max(1.0, between / (part * (1 - part)))

    def effective(self) -> tuple[float, float]:
        """Return the equivalent numbers of independent requests, and of failures of these."""
        effect = self.design_effect()
        return self.requests / effect, self.failed / effect


class Failures:
    """Tests whether more requests to the new version fail; without requests to the old one, whether too many fail."""

    def __init__(self, settings: Rollout) -> None:
        self._rate = settings.error_rate
        self._new, self._old = _Failing(), _Failing()
        self._looks, self._next = 0, float(_FIRST)
        self._fine_looks, self._next_fine = 0, float(clean_requests(settings))
        self.decision: Decision = "open"

    def add(self, new: Sample, old: Sample) -> None:
        """Add the results of one block."""
        self._new.add(new)
        self._old.add(old)
        if self.decision == "worse":
            return
        if self._new.requests >= self._next:
            self._looks += 1
            while self._next <= self._new.requests:
                self._next *= _GROWTH
            if self.more > self._rate and self.p_value() < ALARM * _share(self._looks, early=10):
                self.decision = "worse"
                return
        if self._new.requests >= self._next_fine:
            self._fine_looks += 1
            while self._next_fine <= self._new.requests:
                self._next_fine *= _GROWTH
            if self._bounds(MISS * _share(self._fine_looks))[1] < 2 * self._rate:
                self.decision = "fine"

    def before(self, old: Sample) -> None:
        """Add results of the old version from another time."""
        self._old.add(old, block=False)

    @property
    def more(self) -> float:
        """The difference of both failure rates."""
        return self._new.part - self._old.part

    def interval(self) -> tuple[float, float]:
        """Return the bounds of `more` with 95 % confidence."""
        return self._bounds((1 - _CONFIDENCE) / 2)

    def p_value(self) -> float:
        """Return the p-value of the difference."""
        import numpy as np
        from scipy.stats import binomtest, fisher_exact

        (requests, failed), (others, old) = (
            (round(requests), round(failed)) for requests, failed in (self._new.effective(), self._old.effective())
        )
        if not requests:
            return 1.0
        if not others:
            return float(binomtest(failed, requests, self._rate, alternative="greater").pvalue)
        table = np.array([[failed, requests - failed], [old, others - old]])
        return float(fisher_exact(table, alternative="greater").pvalue)

    def as_it_stands(self) -> Decision:
        """Return the decision when the time is up."""
        if self.decision != "open" or not self._new.requests:
            return self.decision
        return "worse" if self.more > self._rate and self.p_value() < _AS_IT_STANDS else "fine"

    def needed(self) -> int:
        """Return about how many more requests to the new version make it clear, at the failure rate so far."""
        if self.decision != "open":
            return 0
        so_far, wanted = max(1, self._new.requests), self._next_fine
        alarm, miss = ALARM * _share(self._looks + 2, early=10), MISS * _share(self._fine_looks + 1)
        while wanted < 100 * so_far and self._new.failed:
            times = wanted / so_far
            if self._bounds(miss, times)[1] < 2 * self._rate or (
                self.more > self._rate and self._bounds(alarm, times)[0] > 0
            ):
                break
            wanted *= _GROWTH
        return max(1, math.ceil(wanted) - self._new.requests)

    def _bounds(self, error: float, times: float = 1.0) -> tuple[float, float]:
        """Return bounds of `more`, each with the given error rate, for `times` the requests and failures so far."""
        from scipy.special import betaincinv

        def part(side: _Failing) -> tuple[float, float, float]:
            requests, failed = (times * number for number in side.effective())
            if not requests:
                return 0.0, 0.0, 0.0
            low = float(betaincinv(failed, requests - failed + 1, error)) if failed else 0.0
            high = float(betaincinv(failed + 1, requests - failed, 1 - error)) if failed < requests else 1.0
            return side.part, low, high

        (new, new_low, new_high), (old, old_low, old_high) = part(self._new), part(self._old)
        return (
            new - old - math.hypot(new - new_low, old_high - old),
            new - old + math.hypot(new_high - new, old - old_low),
        )


def clean_requests(settings: Rollout) -> int:
    """Return how many requests without a failure show that no more fail than allowed."""
    return math.ceil(math.log(MISS * _share(1)) / math.log1p(-min(2 * settings.error_rate, 0.99)))


def clean_blocks() -> int:
    """Return how many blocks show that a version is as fast as the old one, if they vary little."""
    return _LOOKS[0]
