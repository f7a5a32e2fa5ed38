"""Requests that nobody means, over both protocols; `python -m tests.bench.fuzz` sends many more."""

from __future__ import annotations

import pytest

from tests.bench.fuzz import fuzz


# It measures the server's memory.
@pytest.mark.parametrize(("transport", "seed"), [("native", 7), ("grpcio", 8)])
def test_mutated_requests_are_answered_and_leave_the_server_as_it_was(transport: str, seed: int) -> None:
    result = fuzz(4000, seed, transport=transport)

    assert result["wrong"] == []
    assert result["requests"] == 4000
    assert {"200", "400", "404", "501", "OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(result["statuses"])
    assert result["at_the_end"]["mb"] - result["after_a_fifth"]["mb"] < 60
    assert result["at_the_end"]["descriptors"] - result["after_a_fifth"]["descriptors"] <= 8
