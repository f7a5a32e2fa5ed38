"""The page that Prometheus reads: families, labels and buckets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.metrics import Counter, Histogram, count_answer, count_failure


def test_a_counter_counts_for_each_value_of_its_labels() -> None:
    counter = Counter(":a:count", ("model_name", "status"))
    counter.add("m", "OK")
    counter.add("m", "OK")
    counter.add('q"\n\\', "NOT_FOUND", by=3)
    assert counter.lines([counter.counted()]) == [
        "# TYPE :a:count counter",
        ':a:count{model_name="m",status="OK"} 2',
        ':a:count{model_name="q\\"\\n\\\\",status="NOT_FOUND"} 3',
    ]


def test_a_histogram_adds_up_from_bucket_to_bucket() -> None:
    histogram = Histogram(":a:latency", ("API",), metrics.exponential(10, 1.8, 3))
    for value in (1, 10, 11, 1000):
        histogram.observe(value, "Predict")
    assert histogram.lines([histogram.counted()]) == [
        "# TYPE :a:latency histogram",
        ':a:latency_bucket{API="Predict",le="10"} 2',
        ':a:latency_bucket{API="Predict",le="18"} 3',
        ':a:latency_bucket{API="Predict",le="32.4"} 3',
        ':a:latency_bucket{API="Predict",le="+Inf"} 4',
        ':a:latency_sum{API="Predict"} 1022',
        ':a:latency_count{API="Predict"} 4',
    ]


def test_latencies_have_33_buckets_from_10_microseconds_to_24_minutes() -> None:
    assert len(metrics.LATENCIES) == 33
    assert (metrics.LATENCIES[0], f"{metrics.LATENCIES[-1]:.3g}") == (10, "1.47e+09")


def test_names_that_clients_make_up_do_not_grow_for_ever() -> None:
    counter, histogram = Counter(":a:count", ("model_name",)), Histogram(":a:latency", ("model_name",))
    for number in range(metrics.MOST_KEPT + 500):
        counter.add(str(number))
        histogram.observe(1, str(number))
    assert ':a:count{model_name="other"} 500' in counter.lines([counter.counted()])
    assert len(counter.lines([counter.counted()])) == metrics.MOST_KEPT + 2
    assert ':a:latency_count{model_name="other"} 500' in histogram.lines([histogram.counted()])


def test_requests_are_counted_by_status_and_only_answers_have_a_latency() -> None:
    count_answer("counted", "Predict", "GRPC", time.monotonic())
    count_failure("counted", RequestError(Code.NOT_FOUND, "no"))
    lines = metrics.page().decode(errors="surrogateescape").splitlines()
    assert ':tensorflow:serving:request_count{model_name="counted",status="OK"} 1' in lines
    assert ':tensorflow:serving:request_count{model_name="counted",status="NOT_FOUND"} 1' in lines
    latency = ':tensorflow:serving:request_latency_count{model_name="counted",API="Predict",entrypoint="GRPC"} 1'
    assert latency in lines
    assert not any('model_name="counted",API="predict"' in line for line in lines)


def test_no_count_is_lost_between_threads() -> None:
    counter = Counter(":a:count", ("model_name",))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: counter.add("m"), range(4000)))
    assert counter.lines([counter.counted()])[-1] == ':a:count{model_name="m"} 4000'
