"""What a server counts, as its page for Prometheus tells."""

from __future__ import annotations

import re

import numpy as np

from tests.serving.embedded.running import Asker, together, wait_until
from tests.serving.embedded.saved_models import rows

pytestmark = together


def counted(ask: Asker, family: str, **labels: str) -> int:
    """The sum of what a family of metrics counted with these labels."""
    page = ask.rest.get("/monitoring/prometheus/metrics")
    assert page.status_code == 200
    total = 0
    for told, value in re.findall(rf"^:tensorflow:serving:{family}{{(.*)}} (\d+)$", page.text, re.M):
        if labels.items() <= dict(re.findall(r'(\w+)="(.*?)"', told)).items():
            total += int(value)
    return total


def test_requests_are_counted_by_model_and_status_and_timed_by_protocol(ask: Asker) -> None:
    def all_counted() -> tuple[int, int, int]:
        return (
            counted(ask, "request_count", model_name="pair", status="OK"),
            # The protocols write the method each in their own way.
            counted(ask, "request_latency_count", model_name="pair", API="Predict", entrypoint="GRPC"),
            counted(ask, "request_latency_count", model_name="pair", API="predict", entrypoint="REST"),
        )

    before = all_counted()
    for _ in range(3):
        ask.predict("pair", {"features": rows(2), "weight": np.ones(2, np.float32)})
    for _ in range(2):
        assert ask.post("pair:predict", {"inputs": {"features": [[1, 2, 3]], "weight": [1]}})[0] == 200
    wanted = tuple(count + more for count, more in zip(before, (5, 3, 2), strict=True))
    wait_until("all are counted", lambda: all_counted() == wanted)
