"""What a gate reads from a metrics page."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

from tfserving.k8s.rollout.gates import Page, page

# TensorFlow Serving shows any name that a client sends.
TEXT = """\
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="scale",status="OK"} 30
:tensorflow:serving:request_count{model_name="scale",status="INTERNAL"} 10
:tensorflow:serving:request_count{model_name="upscale",status="INTERNAL"} 7
:tensorflow:serving:request_count{model_name="other",model_name="scale",status="NOT_FOUND"} 1000
:tensorflow:serving:request_count{model_name="other\\",model_name=\\"scale",status="NOT_FOUND"} 1000
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="scale",API="Predict",entrypoint="GRPC",le="10"} 25
:tensorflow:serving:request_latency_bucket{model_name="scale",API="Predict",entrypoint="GRPC",le="+Inf"} 30
:tensorflow:serving:request_latency_bucket{model_name="other",model_name="scale",le="10"} 1000
"""


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(TEXT.encode())

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


def test_only_the_models_own_numbers_count() -> None:
    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        instance: Any = SimpleNamespace(name="one", grpc=None, rest=f"127.0.0.1:{server.server_port}")
        found = page(instance, "scale")
    assert found.requests == {"OK": 30, "INTERNAL": 10}
    assert found.buckets == {10.0: 25, float("inf"): 30}
    assert found.error_rate == 0.25


def test_a_server_that_was_restarted_counts_from_zero() -> None:
    before = Page(Counter(OK=100, INTERNAL=5))
    assert Page(Counter(OK=120, INTERNAL=7)).since(before).requests == {"OK": 20, "INTERNAL": 2}
    for restarted in (Page(Counter(OK=90)), Page(Counter(OK=120)), Page()):
        assert restarted.since(before) is restarted
