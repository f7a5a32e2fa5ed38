"""The inference requests to a model, counted on a server's Prometheus page.

TensorFlow Serving counts each REST GET of a model's status or metadata as a request: in `request_count` with the status
OK, and in `request_latency` without an API. So successful inference requests are read from `request_latency` with the
API of an inference. It lacks failed requests; `request_count` has these, by status.

Neither counts the calls that exceed the server's threads, which it rejects unread.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace

from tfserving.clients.address import Tls
from tfserving.clients.page import read_page

PATH = "/monitoring/prometheus/metrics"
# In lower case, as in REST. gRPC has Predict, Classify, Regress and MultiInference.
INFERENCE = ("predict", "classify", "regress", "multiinference")
_LINE = re.compile(
    r"^:tensorflow:serving:(request_count|request_latency_(?:bucket|sum|count))\{(.*)\} "
    r"([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]+)?)$",
    re.M,
)
_LABELS = {"model_name", "status", "API", "entrypoint", "le"}
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass
class Page:
    """The inference requests to a model on a metrics page.

    `answered` requests succeeded, and took `microseconds` together. `failed` counts the others by status. `buckets`
    counts the successful requests by latency: the keys are upper bounds in microseconds, the counts are cumulative.
    TensorFlow Serving's bounds grow by a factor of 1.8 from 10.
    """

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    microseconds: float = 0.0

    def since(self, before: Page) -> Page:
        """Return what was counted after `before`; everything when the server was restarted in the meantime."""
        if self.answered < before.answered or any(self.failed[key] < count for key, count in before.failed.items()):
            return self
        return Page(
            self.answered - before.answered,
            Counter({status: count - before.failed[status] for status, count in self.failed.items()}),
            Counter({bound: count - before.buckets[bound] for bound, count in self.buckets.items()}),
            self.microseconds - before.microseconds,
        )

    def add(self, other: Page) -> None:
        """Add the counts of another server."""
        self.answered += other.answered
        self.failed.update(other.failed)
        self.buckets.update(other.buckets)
        self.microseconds += other.microseconds

    def without(self, answered: int) -> Page:
        """Return it without so many successful requests. The latencies stay: those of a request aren't known."""
        return replace(self, answered=max(0, self.answered - answered))

    @property
    def total(self) -> int:
        """The number of requests, with those that failed."""
        return self.answered + self.failed.total()

    @property
    def error_rate(self) -> float:
        """The fraction of requests that failed."""
        return self.failed.total() / self.total if self.total else 0.0

    def mean_ms(self) -> float | None:
        """Return the mean latency in milliseconds; None without successful requests."""
        return self.microseconds / self.answered / 1000 if self.answered else None

    def p99_ms(self) -> float:
        """Return the 99th percentile of the latency in milliseconds, interpolated in its bucket; 0 without requests."""
        bounds = sorted(self.buckets)
        wanted = 0.99 * max(self.buckets.values(), default=0)
        below, low = 0, 0.0
        for bound in bounds:
            count = self.buckets[bound]
            if count >= wanted and count > below:
                top = bound if bound != float("inf") else low
                return (low + (top - low) * (wanted - below) / (count - below)) / 1000
            below, low = count, bound
        return 0.0

    def __str__(self) -> str:
        return f"{self.total} requests, {100 * self.error_rate:.2f} % failed, p99 {self.p99_ms():.1f} ms"


def read_metrics(url: str, model: str, tls: Tls | None = None) -> Page:
    """Return the counts of `model` on the page at `url`. Raises a ServingError when the page can't be read."""
    found = Page()
    for family, text, value in _LINE.findall(read_page(url, tls)):
        labels = _labels(text)
        # Lines with other labels are skipped: a client can send any model name, and so add lines to a family.
        if labels.get("model_name") != model or not set(labels) <= _LABELS:
            continue
        match (family, labels):
            case ("request_count", {"status": status}) if status != "OK":
                found.failed[status] += round(float(value))
            case ("request_latency_count", {"API": api}) if api.lower() in INFERENCE:
                found.answered += round(float(value))
            case ("request_latency_sum", {"API": api}) if api.lower() in INFERENCE:
                found.microseconds += float(value)
            case ("request_latency_bucket", {"API": api, "le": bound}) if api.lower() in INFERENCE:
                found.buckets[float(bound)] += round(float(value))
    return found


def _labels(text: str) -> dict[str, str]:
    """Return the labels of a line; none for a line that is ambiguous.

    TensorFlow Serving doesn't escape the name of a model, and a client can send any name: one with a quote in it can
    look like more labels.
    """
    found = _LABEL.findall(text)
    labels = dict(found)
    whole = ",".join(f'{name}="{value}"' for name, value in found) == text and len(labels) == len(found)
    return labels if whole else {}
