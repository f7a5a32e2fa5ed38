"""How gates judge what came of requests, a page's and a probe's."""

from __future__ import annotations

from collections import Counter

import pytest

from tfserving.clients.metrics import Page
from tfserving.k8s.rollout.gates import Figures, allowed, compare
from tfserving.k8s.rollout.probe import Probed
from tfserving.k8s.rollout.target import GateError
from tfserving.serving.models_yaml.rollout import Rollout

SETTINGS = Rollout(samples=100, latency=1.5, slack_ms=5, error_rate=0.01)
REFUSED = "RESOURCE_EXHAUSTED: Server Threadpool Exhausted"


def probed(milliseconds: float, failed: int = 0, answered: int = 100) -> Probed:
    return Probed([milliseconds / 1000] * answered, Counter({REFUSED: failed} if failed else {}))


def page(milliseconds: float, failed: int = 0, answered: int = 100) -> Page:
    micros = milliseconds * 1000
    return Page(answered, Counter(INTERNAL=failed), Counter({micros: answered - 1, micros + 1: answered}))


@pytest.mark.parametrize(
    ("new", "old", "reason"),
    [
        (probed(2), probed(1), ""),
        (page(2), page(1), ""),
        (probed(1, failed=1), probed(1), ""),
        (probed(1, failed=2), probed(1), f"102 requests, 2 failed ({REFUSED}), p50 1.0 ms, p99 1.0 ms"),
        (page(1, failed=2), page(1), "102 requests, 1.96 % failed"),
        # What fails with the old version fails.
        (probed(1, failed=10), probed(1, failed=10), ""),
        (page(1, failed=10), page(1, failed=10), ""),
        (probed(30), probed(20), ""),
        (probed(31), probed(20), "1.5 times the p99 is allowed"),
        (page(40), page(20), "1.5 times the p99 is allowed"),
        # The latency of too few requests is no measure.
        (probed(31), probed(20, answered=99), ""),
        (
            probed(1, failed=5, answered=0),
            probed(1),
            f"5 requests, 5 failed ({REFUSED}); with the old one 100 requests",
        ),
    ],
)
def test_a_probe_is_judged_as_a_page_is(new: Figures, old: Figures, reason: str) -> None:
    if not reason:
        assert compare(new, old, SETTINGS, "probe: ") == f"probe: with the new version {new}; with the old one {old}"
        return
    with pytest.raises(GateError) as error:
        compare(new, old, SETTINGS, "probe: ")
    assert str(error.value).startswith("probe: with the new version ")
    assert reason in str(error.value)


def test_without_anything_to_compare_it_with_so_much_may_fail() -> None:
    assert allowed(probed(1, failed=1), SETTINGS) == f"101 requests, 1 failed ({REFUSED}), p50 1.0 ms, p99 1.0 ms"
    for seen in (probed(1, failed=2), page(1, failed=2)):
        with pytest.raises(GateError, match="1 % are allowed"):
            allowed(seen, SETTINGS)


def test_what_was_never_sent_says_nothing() -> None:
    assert str(Probed()) == "0 requests, 0 failed"
    assert (Probed().error_rate, Probed().p99_ms()) == (0, 0)
