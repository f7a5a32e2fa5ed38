"""The page that Prometheus reads: families, labels and buckets."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.observability.metrics import Counter, Histogram, count_failure, count_success


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


def test_of_versions_those_that_counted_last_are_kept() -> None:
    counter, histogram = Counter(":a:count", ("version",), 3), Histogram(":a:latency", ("version",), most=3)
    for version in (1, 2, 3, 1, 4, 5):
        counter.add(str(version))
        histogram.observe(1, str(version))
    assert counter.counted() == {("1",): 2, ("4",): 1, ("5",): 1}
    assert {version: sum(counts) for (version,), (counts, _) in histogram.counted().items()} == {"1": 2, "4": 1, "5": 1}


def test_what_every_model_counts_is_kept_however_many_there_are() -> None:
    counter, histogram = Counter(":a:count", ("model_name",)), Histogram(":a:latency", ("model_name",), (1.0,))
    for number in range(20_000):
        counter.add(str(number))
        histogram.observe(1, str(number))
    assert set(counter.counted()) == set(histogram.counted()) == {(str(number),) for number in range(20_000)}


def test_whatever_a_name_is_the_page_can_be_read() -> None:
    names = ["a\nb", "c\rd\x85e\u2028f\x00", 'g"h', "i\\", "j\udcffk\ud800", "l" * 4_000_000, "ü€😀", '"} 1\n:x{y="']
    counter, histogram = Counter(":a:count", ("model_name",)), Histogram(":a:latency", ("model_name",), (1.0,))
    for name in names:
        counter.add(name)
        histogram.observe(1, name)
    page = "\n".join(counter.lines([counter.counted()]) + histogram.lines([histogram.counted()])).encode()
    read = samples(page)
    assert len(read) == len(names) * (1 + 4)
    printable = ["a\nb", "c�d�e�f�", 'g"h', "i\\", "j�k�", "l" * 1024 + "…", "ü€😀", '"} 1\n:x{y="']
    assert {labels["model_name"] for _, labels in read} == set(printable)


def samples(page: bytes) -> list[tuple[str, dict[str, str]]]:
    """The name and the labels of every sample of a page, read as strictly as the format is described.

    https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
    """
    found = []
    for line in page.decode().splitlines():
        if re.fullmatch(r"# TYPE [a-zA-Z_:][a-zA-Z0-9_:]* (counter|gauge|histogram)", line):
            continue
        sample = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? [0-9.e+-]+", line)
        assert sample, line
        labels, text = {}, sample[2] or ""
        while text:
            label = re.match(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)', text)
            assert label, line
            labels[label[1]] = re.sub(r"\\(.)", lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), label[2])
            text = text[label.end() :]
        found.append((sample[1], labels))
    return found


def test_requests_are_counted_by_status_and_only_answers_have_a_latency() -> None:
    count_success("counted", "Predict", "GRPC", time.monotonic())
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
