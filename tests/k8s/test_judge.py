"""How two versions are compared by the outcome of requests to both."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.bench.rollouts import simulated
from tfserving.clients.metrics import Page
from tfserving.k8s.rollout.judge import Comparison, Sample, Verdict, required
from tfserving.serving.models_yaml.rollout import Rollout

# The latencies are lognormal, as those of servers: the 99th percentile is 2.5 times the median.
NOISE, MS = 0.4, 0.002
REFUSED = "RESOURCE_EXHAUSTED: Server Threadpool Exhausted"
SHORT = Rollout(window=1, longest=300)


def sample(rng: np.random.Generator, requests: int, times: float = 1.0, failing: float = 0.0) -> Sample:
    failed = int(rng.binomial(requests, failing))
    seconds = MS * times * np.exp(rng.normal(size=requests - failed) * NOISE)
    return Sample.of_seconds(map(float, seconds), {REFUSED: failed} if failed else {})


def blocks(
    seed: int, rate: int = 25, times: float = 1.0, failing: float = 0.0, both_failing: float = 0.0
) -> Iterator[tuple[Sample, Sample, float]]:
    """Second by second, for ever."""
    rng = np.random.default_rng(seed)
    for second in range(1, 10**6):
        yield (
            sample(rng, rate, times, both_failing + failing),
            sample(rng, rate, failing=both_failing),
            float(second),
        )


def compared(
    data: Iterator[tuple[Sample, Sample, float]], settings: Rollout = SHORT
) -> tuple[Verdict, float, Comparison]:
    """The verdict, the second in which it came, and the comparison."""
    comparison = Comparison(settings, "version 2", "version 1")
    for new, old, at in data:
        comparison.add(new, old, at)
        verdict = comparison.verdict()
        if verdict.decision != "open" or at >= settings.longest:
            return verdict if verdict.decision != "open" else comparison.last(), at, comparison
    raise AssertionError("no data")


@pytest.mark.parametrize(
    ("data", "decision", "latest"),
    [
        (blocks, "fine", 20),
        (lambda seed: blocks(seed, rate=100, both_failing=0.02), "fine", 100),
        (lambda seed: blocks(seed, times=1.6), "worse", 30),
        (lambda seed: blocks(seed, times=0.5), "fine", 20),
        (lambda seed: blocks(seed, failing=0.04), "worse", 60),
    ],
    ids=["same", "both fail", "slow", "fast", "fails"],
)
def test_it_is_nearly_always_right(
    data: Callable[[int], Iterator[tuple[Sample, Sample, float]]], decision: str, latest: float
) -> None:
    """A small Monte Carlo: of 15 comparisons at most one is wrong, or takes longer."""
    found = [compared(data(seed)) for seed in range(15)]
    right = [at for verdict, at, _ in found if verdict.decision == decision]
    assert len(right) >= 14, Counter(verdict.decision for verdict, *_ in found)
    assert sum(at > latest for at in right) <= 1, right


def test_what_is_clear_ends_early() -> None:
    fails, at, _ = compared(blocks(1, rate=5, failing=1.0), Rollout())
    assert fails.decision == "worse"
    assert at <= 2
    assert fails.reason == (
        f"10 of 10 requests to version 2 failed ({REFUSED}), 0 of 10 requests to version 1 failed: "
        "100 % more (56.4 % to 100 %), at most 1 % more is allowed"
    )
    slow, at, _ = compared(blocks(1, rate=5, times=3.0), Rollout())
    assert slow.decision == "worse"
    assert at == 10
    assert slow.reason.startswith(
        "version 2 takes 3.24 times as long as version 1 (2.77 to 3.80), mean 6.5 ms and 2.0 ms"
    )
    assert slow.reason.endswith("1.5 times is too slow")


def test_nothing_is_fine_before_the_window_is_over() -> None:
    assert compared(blocks(1, rate=100), Rollout(window=45))[:2] == (Verdict("fine"), 45)


def test_a_stall_of_many_requests_is_one_block_of_time() -> None:
    """A server that stands still for a second delays all that come; that says nothing of the version."""

    def stalled() -> Iterator[tuple[Sample, Sample, float]]:
        for new, old, at in blocks(3, rate=50):
            yield (
                (sample(np.random.default_rng(int(at)), 50, times=400), old, at) if at in (3, 4, 8) else (new, old, at)
            )

    verdict, _, comparison = compared(stalled())
    numbers = comparison.numbers()
    assert verdict.decision == "fine"
    assert numbers["new"]["mean_ms"] > 5 * numbers["old"]["mean_ms"]
    assert numbers["latency"]["low"] < 1 < numbers["latency"]["high"] < 1.3


def test_failures_that_come_in_one_burst_are_no_proof() -> None:
    """40 of 1000 at once weigh less than 40 that come one by one."""

    def failing(counts: dict[int, int]) -> str:
        comparison = Comparison(Rollout())
        for second in range(1, 21):
            failed = counts.get(second, 0)
            comparison.add(Sample(50 - failed, 0.1, Counter({"lost": failed})), Sample(50, 0.1), second)
        return comparison.verdict().decision

    assert failing({5: 40}) != "worse"
    assert failing(dict.fromkeys(range(1, 21), 2)) == "worse"


def test_failures_of_the_old_version_are_what_is_compared_with() -> None:
    """Clients that send wrong requests get errors of every version."""
    verdict, _, comparison = compared(blocks(1, failing=0.0, both_failing=1.0))
    assert verdict.decision == "fine"
    assert "latencies not compared" in str(comparison)


def test_of_a_window_before_only_failures_are_compared() -> None:
    """One server serves one version after the other."""

    def in_turns(failing: float) -> Iterator[tuple[Sample, Sample, float]]:
        rng = np.random.default_rng(1)
        for second in range(1, 31):
            yield Sample(), sample(rng, 25), second
        for second in range(31, 400):
            yield sample(rng, 25, times=1.2, failing=failing), Sample(), second

    settings = Rollout(window=40)
    verdict, at, comparison = compared(in_turns(0.0), settings)
    assert (verdict.decision, at) == ("fine", 41)
    assert comparison.numbers()["latency"]["decision"] == "not judged"
    assert "latencies not compared, because the versions never got requests at the same time" in str(comparison)
    assert compared(in_turns(0.1), settings)[0].decision == "worse"


def test_on_one_server_failures_are_compared_with_those_at_the_same_time_and_before() -> None:
    """What the new version spoils for both is not fine because both fail; a short window before finds no 4 %."""

    def on_one_server(failing: float, both_failing: float) -> Verdict:
        comparison = Comparison(Rollout(window=1), "version 2", "version 1")
        comparison.before(sample(np.random.default_rng(1), 75))
        for new, old, at in blocks(1, failing=failing, both_failing=both_failing):
            comparison.add(new, old, at, shared=True)
            if comparison.verdict().decision != "open" or at == 60:
                break
        return comparison.verdict()

    assert on_one_server(0.0, 0.0).decision == "fine"
    assert "0 of 350 requests to version 1 failed" in on_one_server(0.04, 0.0).reason
    assert "0 of 75 requests to version 1 failed before" in on_one_server(0.0, 0.15).reason


def test_without_any_request_it_stays_open() -> None:
    comparison = Comparison(Rollout())
    comparison.add(Sample(), Sample(), 600)
    assert comparison.verdict().decision == "open"
    assert comparison.last() == Verdict("open")
    assert json.loads(json.dumps(comparison.numbers()))["latency"]["ratio"] is None


def test_milliseconds_that_are_never_too_many() -> None:
    """1.6 times 2 ms is 1.2 ms more."""
    assert compared(blocks(1, times=1.6), Rollout(window=1, slack_ms=4))[0].decision == "fine"
    assert compared(blocks(1, times=1.6), Rollout(window=1, slack_ms=0.5))[0].decision == "worse"


def test_how_long_it_takes_is_known_before_and_meanwhile() -> None:
    requests, seconds = required(Rollout(window=1), 25)
    verdict, at, _ = compared(blocks(2))
    assert verdict.decision == "fine"
    assert at == pytest.approx(seconds, rel=0.3)
    assert requests == pytest.approx(25 * at, rel=0.3)
    assert required(Rollout(), 0)[1] == math.inf
    comparison, left = Comparison(Rollout()), []
    for new, old, at in blocks(2, rate=5):
        comparison.add(new, old, at)
        left.append(comparison.verdict().needed)
        if not left[-1]:
            break
    assert left[0] == pytest.approx(5 * len(left), rel=0.3)
    assert left == sorted(left, reverse=True)


def test_the_line_and_the_numbers_have_all_figures() -> None:
    _, _, comparison = compared(blocks(4))
    numbers = json.loads(json.dumps(comparison.numbers()))
    assert str(comparison).startswith(f"version 2: {numbers['new']['requests']} requests, 0 failed, mean 2.2 ms, p99 ")
    assert str(comparison).endswith("latency ratio {ratio:.2f} ({low:.2f} to {high:.2f})".format(**numbers["latency"]))
    assert sum(count for _, count in numbers["new"]["histogram_ms"]) == numbers["new"]["requests"]
    assert numbers["new"]["p50_ms"] == pytest.approx(1000 * MS, rel=0.1)
    assert numbers["new"]["p99_ms"] == pytest.approx(1000 * MS * math.exp(2.33 * NOISE), rel=0.2)


def test_the_series_stays_short_and_whole() -> None:
    comparison = Comparison(Rollout())
    for second in range(1, 1001):
        comparison.add(Sample(4, 0.01), Sample(5, 0.01, Counter(lost=1)), float(second))
    series = comparison.numbers()["series"]
    assert 100 < len(series) <= 300
    assert [row[0] for row in series] == sorted(row[0] for row in series)
    assert series[-1][0] == 1000
    assert [sum(row[index] for row in series) for index in (1, 2, 4, 5)] == [4000, 0, 6000, 1000]


def test_reasons_of_failures_are_bounded_and_printable() -> None:
    comparison = Comparison(Rollout())
    for number in range(1000):
        comparison.add(Sample.of_seconds([], {f"\x1b[2Jreason {number} {'x' * 500}": 1}), Sample(), 1.0)
    failures = comparison.numbers()["new"]["failures"]
    assert len(failures) <= 21
    assert sum(failures.values()) == 1000
    assert all(name.isprintable() and len(name) < 300 for name in failures)


def test_a_metrics_page_is_a_sample() -> None:
    """Its buckets are cumulative, in microseconds, and the last one is infinite."""
    page = Page(100, Counter(INTERNAL=3), Counter({1000.0: 50, 1800.0: 99, math.inf: 100}), 120_000.0)
    found = Sample.of_page(page)
    assert (found.total, found.failures, found.mean_ms) == (103, 3, 1.2)
    assert found.buckets == {1.0: 50, 1.8: 49, 3.24: 1}
    assert found.quantile_ms(0.5) == 1.0
    # Of the requests of a probe, which are left out, the page does not know the latencies.
    assert Sample.of_page(page.without(50)).mean_ms == pytest.approx(1.2)


def test_the_simulation_has_a_good_version_pass_and_a_bad_one_taken_back() -> None:
    assert [simulated(seed, 0, 1.0, 0.0, two_servers=False)[0] for seed in range(2)] == [False, False]
    assert [simulated(seed, 0, 2.0, 0.0, two_servers=False)[0] for seed in range(2)] == [True, True]
