"""The metrics and the page for Prometheus, with TensorFlow Serving's families, labels and buckets.

Names, labels and buckets are those of servables/tensorflow/util.cc, servables/tensorflow/saved_model_warmup_util.cc,
batching/batching_session.cc and util/prometheus_exporter.cc of TensorFlow Serving r2.20.
"""

from __future__ import annotations

import operator
import re
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tfserving.serving.embedded.errors import RequestError
from tfserving.serving.embedded.observability.current_request import current_request

# Requests to unknown models are counted under this name, because clients can send any number of names.
UNKNOWN = "(unknown)"
# A family that names versions keeps at most this many series, those counted last.
MOST_KEPT = 5000
LONGEST_LABEL = 1024
# Characters that break lines for readers of the page, or that they can't decode.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Returns the upper limits of `count` buckets, each `factor` times the previous one."""
    limits = [first]
    while len(limits) < count:
        limits.append(limits[-1] * factor)
    return tuple(limits)


# The label values of a series.
Values = tuple[str, ...]
# The counts of a process, by the names of the families.
Counted = Mapping[str, Any]

# Microseconds.
LATENCIES = exponential(10, 1.8, 33)


@dataclass
class Counter:
    """A number that only grows, for each set of label values. Keeps the `most` series that were counted last."""

    name: str
    labels: Sequence[str] = ()
    most: int | None = None
    _values: dict[Values, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *values: str, by: int = 1) -> None:
        """Adds one, or `by`, for these label values."""
        with self._lock:
            if self.most is None:
                self._values[values] = self._values.get(values, 0) + by
            else:
                self._values[values] = self._values.pop(values, 0) + by
                _forget(self._values, self.most)

    def begin_again(self) -> None:
        """Resets the counts, in a forked process."""
        self._values, self._lock = {}, threading.Lock()

    def counted(self) -> dict[Values, int]:
        """Returns the present numbers."""
        with self._lock:
            return dict(self._values)

    def lines(self, processes: Iterable[Mapping[Values, int]]) -> list[str]:
        """Returns its lines of the page, for the sums of some processes."""
        sums: dict[Values, int] = {}
        for counted in processes:
            for values, value in counted.items():
                key = _printable(values)
                sums[key] = sums.get(key, 0) + value
        return [
            f"# TYPE {self.name} counter",
            *(f"{self.name}{_labels(self.labels, key)} {value}" for key, value in sorted(sums.items())),
        ]


@dataclass
class _Cell:
    counts: list[int]
    total: float = 0.0


@dataclass
class Histogram:
    """A histogram for each set of label values. Keeps the `most` series that were counted last."""

    name: str
    labels: Sequence[str] = ()
    limits: Sequence[float] = LATENCIES
    most: int | None = None
    _cells: dict[Values, _Cell] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def observe(self, value: float, *values: str) -> None:
        """Adds `value` for these label values."""
        with self._lock:
            cell = self._cells.get(values) if self.most is None else self._cells.pop(values, None)
            if cell is None:
                cell = _Cell([0] * (len(self.limits) + 1))
            self._cells[values] = cell
            if self.most is not None:
                _forget(self._cells, self.most)
            # TensorFlow's buckets exclude their upper limit, and those of Prometheus include it. These include it.
            cell.counts[bisect_left(self.limits, value)] += 1
            cell.total += value

    def begin_again(self) -> None:
        """Resets the counts, in a forked process."""
        self._cells, self._lock = {}, threading.Lock()

    def counted(self) -> dict[Values, tuple[list[int], float]]:
        """Returns the present counts of the buckets, not cumulative, and the sums."""
        with self._lock:
            return {key: (list(cell.counts), cell.total) for key, cell in self._cells.items()}

    def lines(self, processes: Iterable[Mapping[Values, tuple[list[int], float]]]) -> list[str]:
        """Returns its lines of the page, for the sums of some processes."""
        written = [f"# TYPE {self.name} histogram"]
        cells: dict[Values, _Cell] = {}
        for counted in processes:
            for values, (counts, total) in counted.items():
                key = _printable(values)
                cell = cells.setdefault(key, _Cell([0] * len(counts)))
                cell.counts = list(map(operator.add, cell.counts, counts))
                cell.total += total
        for key, cell in sorted(cells.items(), key=lambda item: item[0]):
            so_far = 0
            for limit, count in zip([*(f"{limit:g}" for limit in self.limits), "+Inf"], cell.counts, strict=True):
                so_far += count
                labels = _labels((*self.labels, "le"), (*key, limit))
                written.append(f"{self.name}_bucket{labels} {so_far}")
            written.append(f"{self.name}_sum{_labels(self.labels, key)} {cell.total:.15g}")
            written.append(f"{self.name}_count{_labels(self.labels, key)} {so_far}")
        return written


SERVING = ":tensorflow:serving:"
LOADING = ":tensorflow:cc:saved_model:"
REQUESTS = Counter(SERVING + "request_count", ("model_name", "status"))
REQUEST_LATENCY = Histogram(SERVING + "request_latency", ("model_name", "API", "entrypoint"))
RUNTIME_LATENCY = Histogram(SERVING + "runtime_latency", ("model_name", "API", "runtime"))
WARMUP_LATENCY = Histogram(SERVING + "model_warmup_latency", ("model_path", "status"), most=MOST_KEPT)
WARMUP_RECORDS = Counter(SERVING + "model_warmup_records_read", ("model_path", "status"), MOST_KEPT)
QUEUING_LATENCY = Histogram(SERVING + "batching_session:queuing_latency")
WRAPPED_RUNS = Counter(SERVING + "batching_session:wrapped_run_count")
LOAD_ATTEMPTS = Counter(LOADING + "load_attempt_count", ("model_path", "status"), MOST_KEPT)
LOAD_LATENCY = Counter(LOADING + "load_latency", ("model_path",), MOST_KEPT)
LOAD_STAGES = Histogram(LOADING + "load_latency_by_stage", ("model_path", "stage"), most=MOST_KEPT)
REQUEST_LOGS = Counter(SERVING + "request_log_count", ("model_name", "status"))
# TensorFlow Serving doesn't have these.
DROPPED_LINES = Counter(SERVING + "log_lines_dropped_count", ("log",))
REQUESTS_BY_VERSION = Counter(SERVING + "request_count_by_version", ("model_name", "version", "status"), MOST_KEPT)
LATENCY_BY_VERSION = Histogram(
    SERVING + "request_latency_by_version", ("model_name", "version", "API", "entrypoint"), most=MOST_KEPT
)
# Families on TensorFlow Serving's page that this server never counts. Both pages show them without a value.
UNCOUNTED = (
    f"# TYPE {SERVING}mlmd_map gauge",
    f"# TYPE {SERVING}request_example_count_total counter",
    f"# TYPE {SERVING}request_example_counts histogram",
)
FAMILIES = (
    *(REQUESTS, REQUEST_LATENCY, RUNTIME_LATENCY, WARMUP_LATENCY, WARMUP_RECORDS),
    *(QUEUING_LATENCY, WRAPPED_RUNS, LOAD_ATTEMPTS, LOAD_LATENCY, LOAD_STAGES, REQUEST_LOGS),
    DROPPED_LINES,
)
BY_VERSION = (REQUESTS_BY_VERSION, LATENCY_BY_VERSION)
_families: tuple[Counter | Histogram, ...] = FAMILIES
# TensorFlow Serving doesn't have this one either. Its value is always 1; the labels are what it reports.
DEVICE = SERVING + "device"
_devices: tuple[tuple[str, str], ...] = ()


def note_devices(devices: Iterable[tuple[str, str]]) -> None:
    """Puts the kinds and names of the server's devices on the page, in the process that makes the page."""
    global _devices  # noqa: PLW0603 - the devices belong to the process
    _devices = tuple(sorted(devices))


def count_by_version() -> None:
    """Also counts requests by version, from now on."""
    global _families  # noqa: PLW0603 - the counts belong to the process
    _families = (*FAMILIES, *BY_VERSION)


def count_success(model: str, api: str, entrypoint: str, started: float) -> None:
    """Counts a successful request to `model`: `api` is its method, `entrypoint` GRPC or REST.

    `started` is its start, in seconds of time.monotonic.
    """
    _note(REQUEST_LATENCY, (model, api, entrypoint), started)
    if _families is not FAMILIES:
        _note(LATENCY_BY_VERSION, (model, str(current_request.version), api, entrypoint), started)


def count_failure(model: str, error: RequestError) -> None:
    """Counts a failed request to `model`, a model that the server has or had, or UNKNOWN."""
    REQUESTS.add(model, error.code.name)
    if _families is not FAMILIES and current_request.model == model and current_request.version is not None:
        REQUESTS_BY_VERSION.add(model, str(current_request.version), error.code.name)


def count_run(model: str, api: str, started: float) -> None:
    """Counts a run of TensorFlow's runtime that began at `started`, in seconds of time.monotonic."""
    _note(RUNTIME_LATENCY, (model, api, "TF1"), started)


# Observations are counted in groups, which costs much less than counting each one.
_MOST_NOTED = 256
_noted: deque[tuple[Histogram, tuple[str, ...], float]] = deque()


def _note(family: Histogram, labels: tuple[str, ...], started: float) -> None:
    _noted.append((family, labels, (monotonic() - started) * 1e6))
    if len(_noted) > _MOST_NOTED:
        _count_noted()


def _count_noted() -> None:
    with suppress(IndexError):
        while True:
            family, labels, micros = _noted.popleft()
            family.observe(micros, *labels)
            if family is REQUEST_LATENCY:
                REQUESTS.add(labels[0], "OK")
            elif family is LATENCY_BY_VERSION:
                REQUESTS_BY_VERSION.add(*labels[:2], "OK")


def begin_again() -> None:
    """Resets the counts and locks of the parent, in a forked process."""
    for family in (*FAMILIES, *BY_VERSION):
        family.begin_again()
    _noted.clear()


def counted() -> Counted:
    """Returns all counts of this process, by family."""
    _count_noted()
    return {family.name: family.counted() for family in _families}


def page(processes: Iterable[Counted] | None = None) -> bytes:
    """Returns all families in Prometheus' text format: the sums of some processes, or of this one."""
    processes = [counted()] if processes is None else list(processes)
    lines: list[str] = []
    for family in (*FAMILIES, *BY_VERSION):
        # Counting by version is either on or off for all processes.
        if all(family.name in process for process in processes):
            lines += family.lines([process[family.name] for process in processes])
    if _devices:
        labels = ("device", "name")
        lines += [f"# TYPE {DEVICE} gauge", *(f"{DEVICE}{_labels(labels, _printable(one))} 1" for one in _devices)]
    return "\n".join([*lines, *UNCOUNTED, ""]).encode()


def _forget(kept: dict[Values, Any], most: int) -> None:
    """Removes the series that was counted longest ago, the first one, when there are more than `most`."""
    if len(kept) > most:
        del kept[next(iter(kept))]


def _printable(values: Values) -> Values:
    """Returns label values for the page. Names and paths can have any length and any character."""
    return tuple(_UNPRINTABLE.sub("\ufffd", _cut(value)) for value in values)


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_LABEL else value[:LONGEST_LABEL] + "…"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
