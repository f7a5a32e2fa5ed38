"""What the server itself says of its latency: the Prometheus page of a model server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfserving.clients.address import Tls
from tfserving.clients.page import read_page

PATH = "/monitoring/prometheus/metrics"
_LINE = re.compile(
    r"^:tensorflow:serving:request_latency_(sum|count)\{(.*)\} ([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]+)?)$", re.M
)


@dataclass(frozen=True)
class ServerTime:
    """Microseconds that the server worked for a model, and for how many requests, since it started."""

    microseconds: float = 0.0
    requests: float = 0.0

    def mean_ms(self, before: ServerTime) -> float | None:
        """Milliseconds for each request since `before`; None when there were none."""
        requests = self.requests - before.requests
        return (self.microseconds - before.microseconds) / requests / 1000 if requests > 0 else None


def server_time(url: str, model: str, tls: Tls | None = None) -> ServerTime:
    """What the page at `url` says now.

    Raises a ServingError when it can't be read, and ValueError when it has no latencies of `model`.
    """
    sums: dict[str, float] = {}
    for kind, labels, value in _LINE.findall(read_page(url, tls)):
        # The first label: a name that a client sent can look like further labels.
        if labels.startswith(f'model_name="{model}",'):
            sums[kind] = sums.get(kind, 0.0) + float(value)
    if len(sums) < 2:  # noqa: PLR2004 - a sum and a count
        raise ValueError(f"it has no :tensorflow:serving:request_latency of the model {model!r}")
    return ServerTime(sums["sum"], sums["count"])
