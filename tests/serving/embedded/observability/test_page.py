"""What a server counts, as its page for Prometheus tells."""

from __future__ import annotations

import re

import numpy as np

from tests.serving.embedded.running import Asker, Process, together, wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.clients import connect
from tfserving.clients.metrics import PATH, Page, read_metrics

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


def test_what_is_read_of_the_page_is_inference_alone(ask: Asker, server: Process) -> None:
    def read(model: str) -> Page:
        return read_metrics(f"http://127.0.0.1:{server.rest_port}{PATH}", model)

    pair, examples = read("pair"), read("examples")
    ask.predict("pair", {"features": rows(2), "weight": np.ones(2, np.float32)})
    assert ask.post("pair:predict", {"inputs": {"features": [[1, 2, 3]], "weight": [1]}})[0] == 200
    assert ask.post("pair:predict", {"inputs": [1]})[0] == 400
    for path in ("pair", "pair/metadata"):
        assert ask.get(path)[0] == 200
    ask.metadata("pair")
    ask.status("pair")
    with connect(f"grpc://127.0.0.1:{server.grpc_port}") as client:
        client.classify("examples", [{"f": 1.0}], signature="classify")
        client.regress("examples", [{"f": 1.0}], signature="regress")
        client.multi_inference("examples", {"classify": "classify"}, [{"f": 1.0}])
    for verb in ("classify", "regress"):
        assert ask.post(f"examples:{verb}", {"signature_name": verb, "examples": [{"f": 1.0}]})[0] == 200

    wait_until("all are counted", lambda: read("examples").since(examples).answered == 5)
    seen = read("pair").since(pair)
    assert (seen.answered, seen.failed) == (2, {"INVALID_ARGUMENT": 1})
    assert seen.buckets[float("inf")] == 2
    assert seen.microseconds > 0
