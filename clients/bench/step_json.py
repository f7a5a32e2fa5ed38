"""The results of a load test as JSON. Keys of numbers with a unit end with the unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfserving.clients.bench.load import PERCENTILES, Load, Step

_NAMES = {f"p{percentile:g}": f"latency_p{percentile:g}_ms".replace(".", "_") for percentile in PERCENTILES}


def step_json(step: Step) -> dict[str, Any]:
    """Return a step for JSON."""
    load = step.load
    return {
        "load": {
            "concurrency": load.concurrency,
            "rate_per_second": load.rate,
            "arrival": load.arrival,
            "batch_rows": load.batch,
        },
        "duration_seconds": step.seconds,
        "requests": step.requests,
        "requests_per_second": step.throughput,
        "sent_per_second": step.sent,
        "latency_mean_ms": step.mean_ms,
        **{_NAMES[name]: value for name, value in step.percentiles.items()},
        "latency_max_ms": step.max_ms,
        "server_latency_mean_ms": step.server_ms,
        "send_delay_p99_ms": step.lag_p99_ms,
        "errors": dict(step.errors),
        "processes": step.processes,
        "steady": step.steady,
        "client_bound": step.client_bound,
        "curve": [{"percentile": percentile, "latency_ms": latency} for percentile, latency in step.curve],
    }


def read_step(value: Mapping[str, Any]) -> Step:
    """Return the step in `value`. Raises KeyError for a missing key, and TypeError for a value of another type."""
    load = value["load"]
    server_ms = value["server_latency_mean_ms"]
    return Step(
        load=Load(
            concurrency=_number(load, "concurrency"),
            rate=_number(load, "rate_per_second"),
            arrival=load["arrival"],
            batch=_number(load, "batch_rows"),
        ),
        seconds=_number(value, "duration_seconds"),
        requests=_number(value, "requests"),
        throughput=_number(value, "requests_per_second"),
        percentiles={name: _number(value, key) for name, key in _NAMES.items()},
        mean_ms=_number(value, "latency_mean_ms"),
        max_ms=_number(value, "latency_max_ms"),
        errors={kind: _number(value["errors"], kind) for kind in value["errors"]},
        lag_p99_ms=_number(value, "send_delay_p99_ms"),
        processes=_number(value, "processes"),
        steady=bool(value["steady"]),
        client_bound=bool(value["client_bound"]),
        server_ms=None if server_ms is None else _number(value, "server_latency_mean_ms"),
        curve=tuple((_number(point, "percentile"), _number(point, "latency_ms")) for point in value["curve"]),
        sent=_number(value, "sent_per_second"),
    )


def _number(values: Mapping[str, Any], key: str) -> Any:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{key} must be a number, got {value!r:.40}")
    return value
