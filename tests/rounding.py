"""How exactly a server must return the golden outputs on the machine that computed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Some ULPs of float32 at the largest value of a row. On most processors all outputs of the samples are equal to the
# last bit. On some, products are split among threads in another way, and some threads flush numbers below 1.2e-38 to 0.
MOST = 1e-6


def assert_rounding_only(rows: Iterable[Mapping[str, Any]]) -> None:
    """Asserts that no output of `verify --json` differs by more than rounding, however its requests were sent."""
    ways = [(row, way) for row in rows for way in row["ways"].values()]
    assert ways
    for row, way in ways:
        assert way["verdict"] == "equal" or (way["scaled"] is not None and way["scaled"] < MOST), row
