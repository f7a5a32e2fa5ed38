"""What is read of a metrics page: inference alone."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tfserving.clients.metrics import Page, read_metrics

# TensorFlow Serving shows any name that a client sends. It counts a GET of status or metadata as a request.
TEXT = """\
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="scale",status="OK"} 1030
:tensorflow:serving:request_count{model_name="scale",status="INTERNAL"} 10
:tensorflow:serving:request_count{model_name="upscale",status="INTERNAL"} 7
:tensorflow:serving:request_count{model_name="other",model_name="scale",status="NOT_FOUND"} 1000
:tensorflow:serving:request_count{model_name="other\\",model_name=\\"scale",status="NOT_FOUND"} 1000
:tensorflow:serving:request_count{model_name="scale",x",status="NOT_FOUND"} 1000
:tensorflow:serving:request_count{model_name="scale",x="",status="NOT_FOUND"} 1000
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="scale",API="Predict",entrypoint="GRPC",le="10"} 15
:tensorflow:serving:request_latency_bucket{model_name="scale",API="Predict",entrypoint="GRPC",le="+Inf"} 20
:tensorflow:serving:request_latency_sum{model_name="scale",API="Predict",entrypoint="GRPC"} 1e+06
:tensorflow:serving:request_latency_count{model_name="scale",API="Predict",entrypoint="GRPC"} 20
:tensorflow:serving:request_latency_bucket{model_name="scale",API="classify",entrypoint="REST",le="10"} 10
:tensorflow:serving:request_latency_bucket{model_name="scale",API="classify",entrypoint="REST",le="+Inf"} 10
:tensorflow:serving:request_latency_sum{model_name="scale",API="classify",entrypoint="REST"} 50.5
:tensorflow:serving:request_latency_count{model_name="scale",API="classify",entrypoint="REST"} 10
:tensorflow:serving:request_latency_bucket{model_name="scale",API="",entrypoint="REST",le="10"} 1000
:tensorflow:serving:request_latency_bucket{model_name="scale",API="",entrypoint="REST",le="+Inf"} 1000
:tensorflow:serving:request_latency_sum{model_name="scale",API="",entrypoint="REST"} 9e+09
:tensorflow:serving:request_latency_count{model_name="scale",API="",entrypoint="REST"} 1000
:tensorflow:serving:request_latency_bucket{model_name="other",model_name="scale",API="Predict",le="10"} 1000
"""


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(TEXT.encode())

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


def test_only_the_models_own_inference_counts() -> None:
    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = read_metrics(f"http://127.0.0.1:{server.server_port}/", "scale")
    assert found == Page(30, Counter(INTERNAL=10), Counter({10.0: 25, float("inf"): 30}), 1_000_050.5)
    assert found.error_rate == 0.25


def test_a_server_that_was_restarted_counts_from_zero() -> None:
    before = Page(100, Counter(INTERNAL=5))
    since = Page(120, Counter(INTERNAL=7)).since(before)
    assert (since.answered, since.failed) == (20, {"INTERNAL": 2})
    for restarted in (Page(90), Page(120), Page()):
        assert restarted.since(before) is restarted


def test_requests_that_are_left_out_are_no_failures() -> None:
    page = Page(100, Counter(INTERNAL=5))
    assert page.without(95).error_rate == 0.5
    assert page.without(200).total == 5


def test_the_mean_is_that_of_the_requests_in_between() -> None:
    assert Page(4, microseconds=5000).since(Page(2, microseconds=1000)).mean_ms() == 2
    assert Page(4, microseconds=5000).since(Page(4, microseconds=5000)).mean_ms() is None


@pytest.mark.parametrize(("buckets", "p99"), [({}, 0), ({10.0: 0, 100.0: 100, float("inf"): 100}, 0.0991)])
def test_the_percentile_is_interpolated_in_its_bucket(buckets: dict[float, int], p99: float) -> None:
    assert Page(buckets=Counter(buckets)).p99_ms() == pytest.approx(p99)
