"""What a server tells about its requests: the access log, the request log, the metrics of each version."""

from __future__ import annotations

import json
import re
import signal
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.servers import ModelServer
from tests.serving.embedded.running import Asker, Process, Start, embedded_only, together, wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import ClassificationRequest, ClassificationResponse, PredictionLog
from tfserving.foundation.records import read_records
from tfserving.foundation.tensors import from_proto

pytestmark = together

EXAMPLES = [{"f": 1.5, "s": "one"}, {"f": 2.5}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def server(models: Path, folder: Path, prepared: ModelServer) -> Iterator[Process]:
    """A server that has answered one request of each kind, and refused some."""
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    (folder / "models").write_text(f"""model_config_list {{
        config {{ name: "scale" base_path: "{models}/scale" model_platform: "tensorflow"
                  model_version_policy {{ all {{}} }} }}
        config {{ name: "examples" base_path: "{models}/examples" model_platform: "tensorflow" }} }}""")
    process = Process(
        f"--model_config_file={folder}/models",
        f"--monitoring_config_file={folder}/monitoring",
        f"--request_log={folder}/requests",
        "--access_log",
        "--enable_version_metrics",
        "--max_body_bytes=10000",
        engine=prepared,
    )
    ask = Asker(process.ready())
    ask.predict("scale", {"x": rows(2)})
    ask.predict("scale", {"x": rows(3)}, version=1)
    ask.error("scale", {"wrong": rows(1)})
    ask.error("none", {"x": rows(1)})
    ask.post("scale/versions/1:predict", {"instances": rows(1).tolist()})
    ask.post("scale:predict", {"inputs": {"x": rows(2).tolist()}})
    ask.post("examples:classify", {"signature_name": "classify", "examples": EXAMPLES})
    ask.post("examples:regress", {"signature_name": "regress", "examples": EXAMPLES})
    ask.rest.post("/v1/models/scale:predict", content=b"x" * 20000)
    request = ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "examples", "classify"
    request.input.example_list.examples.add()
    ask.call("PredictionService/Classify", request, ClassificationResponse)
    yield process
    process.stop()


def access(server: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(server.lines) if line.startswith("{")]


def test_the_access_log_has_a_line_for_each_request(server: Process) -> None:
    wait_until("ten lines", lambda: len(access(server)) >= 10)
    told = [
        (line["protocol"], line["method"], line["status"], line["model"], line["version"]) for line in access(server)
    ]
    predict = "/tensorflow.serving.PredictionService/Predict"
    assert told[:10] == [
        ("grpc", predict, "OK", "scale", 2),
        ("grpc", predict, "OK", "scale", 1),
        ("grpc", predict, "INVALID_ARGUMENT", "scale", 2),
        ("grpc", predict, "NOT_FOUND", "none", None),
        ("rest", "POST", 200, "scale", 1),
        ("rest", "POST", 200, "scale", 2),
        ("rest", "POST", 200, "examples", 1),
        ("rest", "POST", 200, "examples", 1),
        ("rest", "POST", 413, None, None),
        ("grpc", "/tensorflow.serving.PredictionService/Classify", "OK", "examples", 1),
    ]


def test_a_line_says_when_who_how_long_and_how_much(server: Process) -> None:
    line = access(server)[4]
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - datetime.now().timestamp()) < 600
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["client"])
    assert line["path"] == "/v1/models/scale/versions/1:predict"
    assert 0 < line["milliseconds"] < 60_000
    assert line["request_bytes"] == len(json.dumps({"instances": rows(1).tolist()}))
    assert line["response_bytes"] > 0
    assert access(server)[0]["client"].startswith("ipv4:127.0.0.1:")


def test_requests_are_counted_by_the_version_that_answered(server: Process) -> None:
    page = Asker(server).rest.get("/monitoring/prometheus/metrics").text
    counted = dict(re.findall(r"request_count_by_version\{(.*)\} (\d+)", page))
    assert counted == {
        'model_name="scale",version="2",status="OK"': "2",
        'model_name="scale",version="1",status="OK"': "2",
        'model_name="scale",version="2",status="INVALID_ARGUMENT"': "1",
        'model_name="examples",version="1",status="OK"': "3",
    }
    wanted = 'request_latency_by_version_count{model_name="scale",version="1",API="predict",entrypoint="REST"} 1'
    assert wanted in page


def test_the_request_log_has_what_was_answered_whoever_asked(server: Process, folder: Path) -> None:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    (file,) = folder.glob("requests-*.tfrecord")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    records = [PredictionLog.FromString(record) for record in read_records(file)]
    told = [
        (
            record.WhichOneof("log_type"),
            record.log_metadata.model_spec.name,
            record.log_metadata.model_spec.version.value,
        )
        for record in records
    ]
    assert told == [
        ("predict_log", "scale", 2),
        ("predict_log", "scale", 1),
        ("predict_log", "scale", 1),
        ("predict_log", "scale", 2),
        ("classify_log", "examples", 1),
        ("regress_log", "examples", 1),
        ("classify_log", "examples", 1),
    ]
    for record, count, factor in zip(records, (2, 3, 1, 2), (-2, 2, 2, -2), strict=False):
        log = record.predict_log
        assert np.array_equal(from_proto(log.request.inputs["x"]), rows(count))
        assert np.array_equal(from_proto(log.response.outputs["y"]), rows(count) * factor)
    classes = records[4].classify_log.response.result.classifications
    assert [(one.classes[0].label, one.classes[0].score) for one in classes] == [("one", 1.5), ("none", 2.5)]
    regressions = records[5].regress_log.response.result.regressions
    assert [one.value for one in regressions] == [3.0, 5.0]
    (example,) = records[6].classify_log.request.input.example_list.examples
    assert not example.features.feature


@embedded_only
def test_the_request_log_can_be_played_as_warm_up(start: Start, models: Path, tmp_path: Path) -> None:
    server = start(
        "--model_name=scale", f"--model_base_path={models}/scale", f"--request_log={tmp_path}/r", "--workers=2"
    ).ready()
    for _ in range(20):
        Asker(server).predict("scale", {"x": rows(1)})
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    files = list(tmp_path.glob("r-*.tfrecord"))
    assert sum(len(list(read_records(file))) for file in files) == 20, "each worker has a file of its own"
    largest = max(files, key=lambda file: file.stat().st_size)
    from tests.serving.embedded import saved_models

    version = saved_models.scale(tmp_path / "warm", 1, 1.0)
    (version / "assets.extra").mkdir()
    largest.rename(version / "assets.extra" / "tf_serving_warmup_requests")
    start("--model_name=warm", f"--model_base_path={tmp_path}/warm").ready()
