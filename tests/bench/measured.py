"""The contents of docs/performance.json: medians, ratios, and the name of each server.

A figure is the median of its rounds, and a ratio the median of the rounds' ratios, since one round's parts saw the same
machine. Where there is no TensorFlow Serving, its figures are those of another machine, in tests/bench/elsewhere.json.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ELSEWHERE = json.loads(Path(__file__).with_name("elsewhere.json").read_text())
NAMES = {
    "native": "embedded, pygrpc-native",
    "grpcio": "embedded, grpcio",
    "embedded": "embedded",
    "before": "embedded, as it was before",
    "tensorflow_serving": "TensorFlow Serving",
    "fastapi": "FastAPI",
    "mlserver": "MLServer",
    "bentoml": "BentoML",
    "echo": "grpcio's echo",
    "naive": "naive server",
}
CONNECTIONS = ("1", "8", "32")
Rounds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Measured:
    """What docs/performance.json has."""

    jobs: Mapping[str, Any]

    def of(self, job: str, *path: str) -> Mapping[str, Any]:
        """The results of a job, or a part of them."""
        found = self.jobs[job]["results"]
        for key in path:
            found = found[key]
        return found  # type: ignore[no-any-return]

    def with_real(self, job: str, connections: str) -> dict[str, tuple[str, dict[str, float]]]:
        """Each server's name and medians, in the order of NAMES; TensorFlow Serving's own too, wherever measured."""
        there = self.of(job, connections)
        found = {key: (NAMES[key], medians(there[key])) for key in NAMES if key in there}
        if "tensorflow_serving" not in there:
            real = ELSEWHERE[job][connections]["tensorflow_serving"]
            found["tensorflow_serving"] = (f"{ELSEWHERE['what']} (measured elsewhere)", real)
        return {key: found[key] for key in NAMES if key in found and key != "before"}


def medians(rounds: Rounds) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(some) for key, some in rounds.items()}


def ratio(over: Rounds, under: Rounds, figure: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over[figure], under[figure], strict=True))


def short(value: float | None) -> str:
    """A number with three digits that mean something, or more before the point."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash, as print has it
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
