"""A load on a server, and its results."""

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
# A process of the generator that is busy for this part of the time is at its limit.
BUSY = 0.9
# An open loop that sends a smaller part of the due requests, and so late, is at its limit.
KEPT_UP, LATE_MS = 0.9, 100.0
NOT_SENT = "not sent: too many in flight"


@dataclass(frozen=True)
class Load:
    """A load: a closed loop of `concurrency` clients, or an open loop of `rate` requests a second.

    A client of a closed loop sends its next request when the response arrives. An open loop sends requests at random
    (`poisson`) or even (`uniform`) times, and counts latency from the intended time. `batch` is the number of rows in
    each request.
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
        text = f"{self.rate:g}/s" if self.open else f"{self.concurrency} at a time"
        return text if self.batch == 1 else f"{text}, batch {self.batch}"


@dataclass(frozen=True)
class Durations:
    """Seconds of the warm-up and of each window, and the number of windows.

    A load is measured until `windows` windows in a row agree, and for `most` windows at most. With `hold` it is
    measured for so many seconds.
    """

    warm_up: float = 1.0
    window: float = 2.0
    windows: int = 3
    most: int = 9
    hold: float | None = None

    @property
    def held_windows(self) -> int:
        """The number of windows in `hold` seconds."""
        return max(1, round((self.hold or 0) / self.window))

    @property
    def window_seconds(self) -> float:
        """The seconds of each window; with `hold`, they fill it."""
        return self.window if self.hold is None else self.hold / self.held_windows


def histogram() -> HdrHistogram:
    """Return a new histogram of microseconds."""
    return HdrHistogram(1, LONGEST_US, DIGITS)


@dataclass
class Window:
    """The responses in one window of time. `lag` is the delay of sending, `busy` the generator's share of a CPU."""

    seconds: float
    latencies: Any = field(default_factory=histogram)
    lag: Any = field(default_factory=histogram)
    errors: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0

    def packed(self) -> dict[str, Any]:
        """Return it for another process."""
        return {
            "seconds": self.seconds,
            "latencies": self.latencies.encode(),
            "lag": self.lag.encode(),
            "errors": dict(self.errors),
            "busy": self.busy,
        }

    def add(self, packed: Mapping[str, Any]) -> None:
        """Add the window of another process at the same time."""
        self.latencies.decode_and_add(packed["latencies"])
        self.lag.decode_and_add(packed["lag"])
        self.errors.update(packed["errors"])
        self.busy = max(self.busy, packed["busy"])


@dataclass(frozen=True)
class Step:
    """The result of one load. Latencies are in milliseconds; those of failed requests don't count.

    `throughput` is successful requests a second, `sent` all requests a second. `server_ms` is the mean latency on the
    server's metrics page; None if it is unknown. A step is `steady` when its windows agree, and `client_bound` when the
    generator was the bottleneck, not the server.
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
    steady: bool
    client_bound: bool
    server_ms: float | None
    curve: tuple[tuple[float, float], ...] = ()
    sent: float = 0.0

    @property
    def failed(self) -> int:
        """The number of failed requests."""
        return sum(self.errors.values())

    def failures(self) -> list[str]:
        """Return the number of failed requests by error, with the likely cause."""
        found = []
        for kind, count in self.errors.items():
            hint = known_hint(kind.partition(": ")[2])
            found.append(f"{count} failed with {kind}" + (f"; {hint}" if hint else ""))
        return found

    def latency(self, percentile: str) -> float:
        """Return the milliseconds of a percentile such as `p99`, of `max` or of `mean`."""
        return {"mean": self.mean_ms, "max": self.max_ms, **self.percentiles}[percentile]


def step_of(load: Load, windows: list[Window], *, processes: int, steady: bool, server_ms: float | None) -> Step:
    """Return the result of all `windows` of a load."""
    latencies, lag, errors = histogram(), histogram(), Counter[str]()
    for window in windows:
        latencies.add(window.latencies)
        lag.add(window.lag)
        errors.update(window.errors)
    seconds = sum(window.seconds for window in windows)
    count = latencies.get_total_count()

    sent = lag.get_total_count() if load.open else count + sum(errors.values())
    due = load.rate * seconds - errors.get(NOT_SENT, 0)
    late_ms = float(lag.get_value_at_percentile(99)) / 1000 if lag.get_total_count() else 0.0
    busy = sum(window.busy for window in windows) / len(windows) > BUSY

    # All at once, since each look-up walks through thousands of counts.
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
        steady=steady,
        client_bound=busy or (load.open and sent < KEPT_UP * due and late_ms > LATE_MS),
        server_ms=server_ms,
        curve=tuple((percentile, ms(percentile)) for percentile in _curve()) if count else (),
        sent=sent / seconds,
    )


def _curve() -> list[float]:
    """Return percentiles for a curve that shows both the middle and the end."""
    return [
        *(float(percentile) for percentile in range(1, 91)),
        *(100 - 10 ** (1 - step / 10) for step in range(1, 31)),
    ]
