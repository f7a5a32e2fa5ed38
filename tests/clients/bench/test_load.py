"""Loads, and what came of them."""

from __future__ import annotations

import pytest

from tfserving.clients.bench.load import Load, Window, step_of


def test_steps_are_summed_over_their_windows() -> None:
    windows = [Window(1.0), Window(1.0)]
    for value in range(1, 1001):
        windows[value % 2].latencies.record_value(1000 * value)
    windows[0].errors["HTTP 503"] += 2
    step = step_of(Load(concurrency=1), windows, processes=1, steady=True, server_ms=None)
    assert (step.requests, step.throughput, step.failed) == (1000, 500, 2)
    assert step.percentiles == pytest.approx({"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}, rel=0.002)
    assert step.max_ms == pytest.approx(1000, rel=0.002)
    assert dict(step.curve)[50.0] == pytest.approx(500, rel=0.002)
