"""What the server itself says of its latency: the Prometheus page of a model server."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx2

from tfserving.clients.address import Tls
from tfserving.clients.rest_transport import tls_context

PATH = "/monitoring/prometheus/metrics"
_LINE = re.compile(r"^:tensorflow:serving:request_latency_(sum|count)\{(.*)\} ([0-9.e+]+)$", re.M)


@dataclass(frozen=True)
class ServerTime:
    """Microseconds that the server worked for a model, and for how many requests, since it started."""

    microseconds: float = 0.0
    requests: float = 0.0

    def mean_ms(self, before: ServerTime) -> float | None:
        """Milliseconds for each request since `before`; None when there were none."""
        requests = self.requests - before.requests
        return (self.microseconds - before.microseconds) / requests / 1000 if requests > 0 else None


def server_time(url: str, model: str, tls: Tls | None = None) -> ServerTime | None:
    """What the page at `url` says now; None when there is none."""
    try:
        with httpx2.Client(verify=tls_context(tls), trust_env=False) as client:
            answer = client.get(url, timeout=5)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None
    if not answer.is_success:
        return None
    sums = {"sum": 0.0, "count": 0.0}
    for kind, labels, value in _LINE.findall(answer.text):
        if f'model_name="{model}"' in labels:
            sums[kind] += float(value)
    return ServerTime(sums["sum"], sums["count"])
