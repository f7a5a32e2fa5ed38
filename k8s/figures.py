"""PromQL that compares the pods of a new revision with those of the old one, by the metrics page of the servers.

Both are per model, and the result is that of the worst one. A model without requests has no figures. When the new pods
got no requests at all, the result is NaN or empty. Series must have the pods' label with the hash of their template.
"""

from __future__ import annotations

from tfserving.clients.metrics import INFERENCE

# Argo's label of the pods of a revision, as Prometheus writes it.
HASH = "rollouts_pod_template_hash"
_COUNT, _LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
# The counters also count reads of status and metadata over REST.
_INFERENCE = f'API=~"(?i)({"|".join(INFERENCE)})"'
# Fewer failures are no reason to stop, whatever their share.
_FEWEST = 3


def error_difference(new: str, old: str, seconds: str) -> str:
    """Return by how much more of the requests to the new pods fail than of those to the old ones.

    Old pods that got no requests count as pods without failures.
    """
    succeeded = _succeeded(new, seconds)
    # A comparison drops NaN.
    before = f"({_succeeded(old, seconds)} <= 1\n  or {succeeded} * 0 + 1)"
    many = f"(scalar(sum({_failures(new, seconds)})) * {seconds} >= bool {_FEWEST})"
    return f"max(\n  {before}\n  - {succeeded}\n) * {many}"


def latency_ratio(new: str, old: str, seconds: str, slack_ms: float) -> str:
    """Return the mean latency of the new pods relative to that of the old ones; `slack_ms` more are always allowed."""
    slack = f" - {slack_ms * 1000:.0f}" if slack_ms else ""
    return f"max(\n  ({_mean(new, seconds)}{slack})\n  / {_mean(old, seconds)}\n)"


def _succeeded(pods: str, seconds: str) -> str:
    """The share of requests that succeed. A series of failures, or of successes, begins with the first one."""
    failed, served = _failures(pods, seconds), _requests("count", pods, seconds)
    return f"({served} / ({served} + {failed})\n  or {served} / {served}\n  or {failed} * 0)"


def _mean(pods: str, seconds: str) -> str:
    """In microseconds."""
    return f"({_requests('sum', pods, seconds)} / {_requests('count', pods, seconds)})"


def _failures(pods: str, seconds: str) -> str:
    return _rate(_COUNT, pods, 'status!="OK"', seconds)


def _requests(part: str, pods: str, seconds: str) -> str:
    """The requests that succeeded, of each second: their count, or the sum of what they took."""
    return _rate(f"{_LATENCY}_{part}", pods, _INFERENCE, seconds)


def _rate(metric: str, pods: str, which: str, seconds: str) -> str:
    return f'sum by (model_name) (rate({metric}{{{HASH}="{pods}", {which}}}[{seconds}s]))'
