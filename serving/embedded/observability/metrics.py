"""What the server counts, and the page that Prometheus reads: TensorFlow Serving's families, labels and buckets.

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

# Requests to models that the server never had are counted under this name: clients can send any number of names.
UNKNOWN = "(unknown)"
# Versions come and go while a server runs. A family that names them keeps so many series: those counted last.
MOST_KEPT = 5000
LONGEST_LABEL = 1024
# Characters that readers of the page take for the end of a line, or can't decode.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Upper limits of `count` buckets, each `factor` times the one before."""
    limits = [first]
    while len(limits) < count:
        limits.append(limits[-1] * factor)
    return tuple(limits)


# The values of a family's labels.
Values = tuple[str, ...]
# What a process counted, by the names of the families.
Counted = Mapping[str, Any]

# Microseconds.
LATENCIES = exponential(10, 1.8, 33)


@dataclass
class Counter:
    """A number that only grows, for each value of its labels; at most for the `most` that were counted last."""

    name: str
    labels: Sequence[str] = ()
    most: int | None = None
    _values: dict[Values, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *values: str, by: int = 1) -> None:
        """Counts one more, or `by` more, for these values of the labels."""
        with self._lock:
            if self.most is None:
                self._values[values] = self._values.get(values, 0) + by
            else:
                self._values[values] = self._values.pop(values, 0) + by
                _forget(self._values, self.most)

    def begin_again(self) -> None:
        """Counts from nothing, in a process that was forked."""
        self._values, self._lock = {}, threading.Lock()

    def counted(self) -> dict[Values, int]:
        """The numbers as they are now."""
        with self._lock:
            return dict(self._values)

    def lines(self, processes: Iterable[Mapping[Values, int]]) -> list[str]:
        """Its part of the page, of what each of some processes counted."""
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
    """How many values were at most so large, for each value of its labels; at most for the `most` counted last."""

    name: str
    labels: Sequence[str] = ()
    limits: Sequence[float] = LATENCIES
    most: int | None = None
    _cells: dict[Values, _Cell] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def observe(self, value: float, *values: str) -> None:
        """Counts `value` for these values of the labels."""
        with self._lock:
            cell = self._cells.get(values) if self.most is None else self._cells.pop(values, None)
            if cell is None:
                cell = _Cell([0] * (len(self.limits) + 1))
            self._cells[values] = cell
            if self.most is not None:
                _forget(self._cells, self.most)
            # TensorFlow's buckets don't have their upper limit, Prometheus' do: the page says what it means.
            cell.counts[bisect_left(self.limits, value)] += 1
            cell.total += value

    def begin_again(self) -> None:
        """Counts from nothing, in a process that was forked."""
        self._cells, self._lock = {}, threading.Lock()

    def counted(self) -> dict[Values, tuple[list[int], float]]:
        """The buckets, each for itself, and the sums as they are now."""
        with self._lock:
            return {key: (list(cell.counts), cell.total) for key, cell in self._cells.items()}

    def lines(self, processes: Iterable[Mapping[Values, tuple[list[int], float]]]) -> list[str]:
        """Its part of the page, of what each of some processes counted."""
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
# These the real server doesn't have.
DROPPED_LINES = Counter(SERVING + "log_lines_dropped_count", ("log",))
REQUESTS_BY_VERSION = Counter(SERVING + "request_count_by_version", ("model_name", "version", "status"), MOST_KEPT)
LATENCY_BY_VERSION = Histogram(
    SERVING + "request_latency_by_version", ("model_name", "version", "API", "entrypoint"), most=MOST_KEPT
)
# Whatever the real server's page has and this one never counts stands there without a value on both.
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


def count_by_version() -> None:
    """Counts requests by version, too, from now on."""
    global _families  # noqa: PLW0603 - what is counted is the process's
    _families = (*FAMILIES, *BY_VERSION)


def count_success(model: str, api: str, entrypoint: str, started: float) -> None:
    """Counts a request to `model` that is answered: `api` is its method, `entrypoint` GRPC or REST.

    `started` is when it began, in seconds of time.monotonic.
    """
    _note(REQUEST_LATENCY, (model, api, entrypoint), started)
    if _families is not FAMILIES:
        _note(LATENCY_BY_VERSION, (model, str(current_request.version), api, entrypoint), started)


def count_failure(model: str, error: RequestError) -> None:
    """Counts a request to `model` that is refused: one that the server knows, or UNKNOWN."""
    REQUESTS.add(model, error.code.name)
    if _families is not FAMILIES and current_request.model == model and current_request.version is not None:
        REQUESTS_BY_VERSION.add(model, str(current_request.version), error.code.name)


def count_run(model: str, api: str, started: float) -> None:
    """Counts a run of TensorFlow's runtime, which began at `started`, in seconds of time.monotonic."""
    _note(RUNTIME_LATENCY, (model, api, "TF1"), started)


# What is noted is counted together: that costs a request much less than counting each for itself.
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
    """Forgets what the process had counted that this one is forked off, and what its threads had locked."""
    for family in (*FAMILIES, *BY_VERSION):
        family.begin_again()
    _noted.clear()


def counted() -> Counted:
    """All that this process counted, by family."""
    _count_noted()
    return {family.name: family.counted() for family in _families}


def page(processes: Iterable[Counted] | None = None) -> bytes:
    """All families in Prometheus' text format: the sums of some processes, or of this one alone."""
    processes = [counted()] if processes is None else list(processes)
    lines: list[str] = []
    for family in (*FAMILIES, *BY_VERSION):
        # Whether requests are counted by version is the same for all.
        if all(family.name in process for process in processes):
            lines += family.lines([process[family.name] for process in processes])
    return "\n".join([*lines, *UNCOUNTED, ""]).encode()


def _forget(kept: dict[Values, Any], most: int) -> None:
    """Removes the series that was counted longest ago, which is the first one, when there are more than `most`."""
    if len(kept) > most:
        del kept[next(iter(kept))]


def _printable(values: Values) -> Values:
    """Label values as the page shows them: names and paths can have any length and any character."""
    return tuple(_UNPRINTABLE.sub("\ufffd", _cut(value)) for value in values)


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_LABEL else value[:LONGEST_LABEL] + "…"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
