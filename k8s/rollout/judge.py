"""Whether a version is worse than another, by what comes of requests to both; it knows how sure it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tfserving.serving.models_yaml.rollout import Rollout

Decision: TypeAlias = Literal["worse", "fine", "open"]


@dataclass
class Sample:
    """What came of requests to one version: those that succeeded, in so many seconds together, and why others failed.

    `buckets` has the former by their latency: how many took no longer than so many milliseconds, and longer than the
    bound before.
    """

    answered: int = 0
    seconds: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)


@dataclass(frozen=True)
class Verdict:
    """What is clear so far. `reason` says what is worse; `needed` is about how many more requests to each make it clear."""

    decision: Decision
    reason: str = ""
    needed: int = 0


class Comparison:
    """Compares what comes of requests to a new version with what comes of those to an old one, block by block of time."""

    def __init__(self, settings: Rollout) -> None:
        self._settings = settings

    def add(self, new: Sample, old: Sample, at: float) -> None:
        """Adds what came in the same block of time to both, which ended `at` seconds after the first began."""
        raise NotImplementedError

    def verdict(self) -> Verdict:
        """What is clear so far."""
        raise NotImplementedError

    def last(self) -> Verdict:
        """What is decided when no more time is left: as it stands."""
        raise NotImplementedError

    def numbers(self) -> Mapping[str, Any]:
        """All that is known, as JSON has it."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError
