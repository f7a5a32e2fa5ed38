"""Requests that nobody means, over both protocols; `python -m tests.bench.fuzz` sends many more."""

from __future__ import annotations

from tests.bench.fuzz import fuzz


# It measures the server's memory.
def test_mutated_requests_are_answered_and_leave_the_server_as_it_was() -> None:
    result = fuzz(5000, seed=7)

    assert result["wrong"] == []
    assert result["requests"] == 5000
    assert {"200", "400", "404", "501", "OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(result["statuses"])
    assert result["at_the_end"]["mb"] - result["after_a_fifth"]["mb"] < 60
    assert result["at_the_end"]["descriptors"] - result["after_a_fifth"]["descriptors"] <= 8
