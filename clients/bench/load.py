"""What is asked of a server and how fast, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from hdrh.histogram import HdrHistogram

from tfserving.clients.errors import known_hint

Arrival: TypeAlias = Literal["poisson", "uniform"]

# Microseconds: from 1 to 10 minutes, to three digits.
LONGEST_US = 600_000_000
DIGITS = 3
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
# One of a generator's processes that has worked for this part of the time can't ask more.
BUSY = 0.9
# An open loop that sends a smaller part of what is due, and that late, can't ask as much.
KEPT_UP, LATE_MS = 0.9, 100.0
NOT_SENT = "not sent: too many in flight"


@dataclass(frozen=True)
class Load:
    """How requests come: as soon as one of `concurrency` is answered, or `rate` a second, whatever the answers do.

    An open loop's requests come at random (`poisson`) or evenly (`uniform`), and their latency counts from when they
    were meant to be sent. `batch` is the number of rows in each.
    """

    concurrency: int = 0
    rate: float = 0.0
    arrival: Arrival = "poisson"
    batch: int = 1

    @property
    def open(self) -> bool:
        """Whether it is an open loop."""
        return self.rate > 0

    def __str__(self) -> str:
        said = f"{self.rate:g}/s" if self.open else f"{self.concurrency} at a time"
        return said if self.batch == 1 else f"{said}, batch {self.batch}"


@dataclass(frozen=True)
class Durations:
    """Seconds of warm-up, and of each window; how many windows there are at least, and at most until they agree."""

    warm_up: float = 1.0
    window: float = 2.0
    windows: int = 3
    most: int = 9


def histogram() -> HdrHistogram:
    """A new one of microseconds."""
    return HdrHistogram(1, LONGEST_US, DIGITS)


@dataclass
class Window:
    """What was answered in one window of time. `lag` is how late requests were sent, `busy` the generator's CPU."""

    seconds: float
    latencies: Any = field(default_factory=histogram)
    lag: Any = field(default_factory=histogram)
    errors: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0

    def packed(self) -> dict[str, Any]:
        """For another process."""
        return {
            "seconds": self.seconds,
            "latencies": self.latencies.encode(),
            "lag": self.lag.encode(),
            "errors": dict(self.errors),
            "busy": self.busy,
        }

    def add(self, packed: Mapping[str, Any]) -> None:
        """Adds what another process saw at the same time."""
        self.latencies.decode_and_add(packed["latencies"])
        self.lag.decode_and_add(packed["lag"])
        self.errors.update(packed["errors"])
        self.busy = max(self.busy, packed["busy"])


@dataclass(frozen=True)
class Step:
    """What came of one load. Latencies are in milliseconds; those of requests that failed don't count.

    `asked` is how many were asked a second, answered or not. `server_ms` is the time that the server itself says it
    took, on average; None where it isn't known. A step is `stable` when its windows agreed, and `client_bound` when the
    generator, not the server, was what could not do more.
    """

    load: Load
    seconds: float
    requests: int
    throughput: float
    percentiles: Mapping[str, float]
    mean_ms: float
    max_ms: float
    errors: Mapping[str, int]
    lag_p99_ms: float
    processes: int
    stable: bool
    client_bound: bool
    server_ms: float | None
    curve: tuple[tuple[float, float], ...] = ()
    asked: float = 0.0

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.errors.values())

    def failures(self) -> list[str]:
        """How many requests failed with which error, and what is known about its cause."""
        found = []
        for kind, count in self.errors.items():
            hint = known_hint(kind.partition(": ")[2])
            found.append(f"{count} failed with {kind}" + (f"; {hint}" if hint else ""))
        return found

    def checked(self) -> Step:
        """This step, read from a file. Raises TypeError for what has another type than it should."""
        load = self.load
        numbers = [load.concurrency, load.rate, load.batch, self.seconds, self.requests, self.throughput, self.mean_ms]
        numbers += [self.max_ms, self.lag_p99_ms, self.asked, *self.percentiles.values(), *self.errors.values()]
        numbers += [number for point in self.curve for number in point]
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise TypeError("what is to be a number is none")
        if set(self.percentiles) != {f"p{percentile:g}" for percentile in PERCENTILES}:
            raise TypeError(f"the percentiles are {', '.join(map(str, self.percentiles))}")
        if not all(len(point) == 2 for point in self.curve):  # noqa: PLR2004 - a percentile and its milliseconds
            raise TypeError("the curve has no points")
        return self

    def latency(self, percentile: str) -> float:
        """Milliseconds of the percentile, for example `p99`, `max` or `mean`."""
        return {"mean": self.mean_ms, "max": self.max_ms, **self.percentiles}[percentile]


def step_of(load: Load, windows: list[Window], *, processes: int, stable: bool, server_ms: float | None) -> Step:
    """The result of all `windows` of a load."""
    latencies, lag, errors = histogram(), histogram(), Counter[str]()
    for window in windows:
        latencies.add(window.latencies)
        lag.add(window.lag)
        errors.update(window.errors)
    seconds = sum(window.seconds for window in windows)
    count = latencies.get_total_count()

    asked = lag.get_total_count() if load.open else count + sum(errors.values())
    due = load.rate * seconds - errors.get(NOT_SENT, 0)
    late_ms = float(lag.get_value_at_percentile(99)) / 1000 if lag.get_total_count() else 0.0
    busy = sum(window.busy for window in windows) / len(windows) > BUSY

    # All at once: one by one, each is a walk through thousands of counts.
    found = latencies.get_percentile_to_value_dict([*PERCENTILES, *_curve()]) if count else {}

    def ms(percentile: float) -> float:
        return float(found[percentile]) / 1000 if count else 0.0

    return Step(
        load=load,
        seconds=seconds,
        requests=count,
        throughput=count / seconds,
        percentiles={f"p{percentile:g}": ms(percentile) for percentile in PERCENTILES},
        mean_ms=float(latencies.get_mean_value()) / 1000 if count else 0.0,
        max_ms=float(latencies.get_max_value()) / 1000 if count else 0.0,
        errors=dict(errors),
        lag_p99_ms=late_ms,
        processes=processes,
        stable=stable,
        client_bound=busy or (load.open and asked < KEPT_UP * due and late_ms > LATE_MS),
        server_ms=server_ms,
        curve=tuple((percentile, ms(percentile)) for percentile in _curve()) if count else (),
        asked=asked / seconds,
    )


def _curve() -> list[float]:
    """Percentiles for a curve that shows both the middle and the end."""
    return [
        *(float(percentile) for percentile in range(1, 91)),
        *(100 - 10 ** (1 - step / 10) for step in range(1, 31)),
    ]
