"""Real requests made into golden and warm-up records, and what these are good for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.clients.conftest import ON_SERVERS, Server, serving
from tests.servers import wait_for
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.capture import CapturedRequest, distinct, read_requests, sampled
from tfserving.clients.verification.verify import verify
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import framed, read_records, write_records

pytestmark = ON_SERVERS
ROWS = np.array([[1, 2, 3]], np.float32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(tfserving, ["capture", *map(str, arguments)])


def request(number: int = 0, version: int | None = None, *, answered: bool = True) -> CapturedRequest:
    outputs = {"scaled": ROWS * 3, "total": np.array([18], np.float32)} if answered else {}
    inputs = {"x": ROWS + np.float32(number)}
    return CapturedRequest("scale", version, GoldenRequest("serving_default", inputs, outputs))


@pytest.fixture(scope="module")
def logging(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs requests to its folder `logged`; version 2 of `scale` has a captured warm-up request."""
    folder = tmp_path_factory.mktemp("logging")
    (folder / "logged").mkdir()
    shutil.copytree(models, folder / "models")
    write_records(folder / "captured.tfrecord", [request().record()])
    warm_up = folder / "models/scale/2/assets.extra/tf_serving_warmup_requests"
    assert run(folder / "captured.tfrecord", "--warm-up", warm_up).exit_code == 0
    with serving(folder / "models", folder, f"--request_log={folder}/logged/requests") as running:
        yield running


def test_a_request_log_becomes_golden_and_warm_up_records(server: Server, logging: Server, tmp_path: Path) -> None:
    folder = logging.folder / "logged"
    with connect(logging.url("grpc")) as client:
        for number in range(3):
            client.predict("scale", {"x": ROWS * number}, version=1)
            client.predict("scale", {"x": ROWS * number}, version=1)
        client.classify("flowers", [{"length": 2.0, "name": "rose"}])
        client.regress("flowers", [{"length": 2.0}], signature="length")

        def logged() -> int:
            return sum(len(list(read_requests(path))) for path in folder.iterdir())

        wait_for(lambda: logged() == 8, 10)
    captured, played = tmp_path / "captured.tfrecord", tmp_path / "warm-up"
    result = run(*folder.iterdir(), "--golden", captured, "--warm-up", played)
    assert result.output == f"{captured}: 5 requests with responses\n{played}: 5 requests\n"
    report = verify([captured], grpc=server.grpc, rest=server.rest)
    assert report.ok, report.sentence()
    assert report.requests == 5
    logs = [PredictionLog.FromString(data) for data in read_records(played)]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log", "classify_log", "regress_log"}
    assert not any(getattr(log, log.WhichOneof("log_type")).HasField("response") for log in logs)


def test_captured_warm_up_is_played_by_a_server(logging: Server) -> None:
    page = httpx2.get(f"http://{logging.rest}/monitoring/prometheus/metrics", trust_env=False).text
    version = logging.models / "scale" / "2"
    assert re.search(rf'warmup.*{version}.*"OK"\}} 2$', page, re.M), "one record was played under each name"


def test_bodies_of_rest_requests_become_records(server: Server, protocol: str, tmp_path: Path) -> None:
    bodies = [
        {"instances": ROWS.tolist()},
        {"model": "words", "inputs": ["four", {"b64": "AP8="}]},
        {"signature_name": "two", "instances": [{"a": 0.5, "n": 2}]},
        {"instances": ROWS.tolist()},
    ]
    source, captured = tmp_path / "bodies.jsonl", tmp_path / "captured.tfrecord"
    source.write_text("\n".join(map(json.dumps, bodies)) + "\n")
    result = run(source, "--server", server.url(protocol), "--golden", captured, "--duplicates")
    assert result.exit_code == 2
    assert f"{source}, line 1: the request has no model" in " ".join(result.stderr.split())
    source.write_text("\n".join(json.dumps({"model": "scale", **body}) for body in bodies))
    result = run(source, "--server", server.url(protocol), "--golden", captured)
    assert result.output == f"{captured}: 3 requests with responses\n"
    assert verify([captured], grpc=server.grpc, rest=server.rest).ok
    result = run(source, "--model", "words", "--server", server.url(protocol), "--golden", captured)
    assert result.output == f"{captured}: 1 request with responses\n"


def test_requests_that_ask_the_same_are_kept_once_and_a_sample_of_them_is_fair() -> None:
    requests = [request(number % 50, version=number) for number in range(200)]
    assert len(list(distinct(requests))) == 50
    kept = [sampled(requests, most) for most in (10, 10, 500)]
    assert [len(some) for some in kept] == [10, 10, 200]
    assert kept[0] == kept[1], "always the same ones"
    versions = [one.version or 0 for one in kept[0]]
    assert versions == sorted(versions)
    assert max(versions) > 100


def test_versions_can_be_forgotten(tmp_path: Path) -> None:
    source, captured = tmp_path / "log.tfrecord", tmp_path / "captured.tfrecord"
    write_records(source, [request(version=1).record(), request(version=2).record()])
    assert run(source, "--golden", captured).exit_code == 0
    assert [one.version for one in read_requests(captured)] == [1]
    run(source, "--golden", captured, "--any-version", "--duplicates")
    assert [one.version for one in read_requests(captured)] == [None, None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no output is given; add --golden FILE or --warm-up FILE"),
        (["--golden", "nowhere/captured"], "the folder nowhere does not exist"),
        (["--golden", "{folder}/captured"], "1 of 1 requests have no response; add --server URL"),
        (["--warm-up", "{folder}/warm-up", "--model", "nope"], "contain no request to 'nope'"),
    ],
)
def test_what_can_not_be_captured_is_refused_and_nothing_written(tmp_path: Path, options: list[str], said: str) -> None:
    source = tmp_path / "log.tfrecord"
    write_records(source, [request(answered=False).record()])
    result = run(source, *(option.format(folder=tmp_path) for option in options))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == [source]


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.json", b"{}", "is JSON, which has no dtypes"),
        ("a.tfrecord", b"no TFRecord at all", "this is no TFRecord"),
    ):
        (tmp_path / name).write_bytes(content)
        result = run(tmp_path / name, "--golden", tmp_path / "captured")
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())
    write_records(tmp_path / "b.tfrecord", [b"\xff"])
    assert "b.tfrecord, record 0: " in " ".join(run(tmp_path / "b.tfrecord", "--golden", tmp_path / "c").stderr.split())


def test_records_before_and_behind_a_damaged_part_are_kept_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    source, captured = tmp_path / "log.tfrecord", tmp_path / "captured.tfrecord"
    whole = [framed(request(number).record()) for number in range(4)]
    source.write_bytes(whole[0] + whole[1][:100] + whole[2] + whole[3] + whole[1][:50])
    result = run(source, "--golden", captured)
    first, last, written = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, written) == (0, "", f"{captured}: 3 requests with responses")
    assert first.startswith(f"Warning: {source}, byte {len(whole[0])}: ")
    assert first.endswith("; skipped 100 bytes")
    assert last.endswith("; skipped 50 bytes")
    kept = [one.request.inputs["x"].tolist() for one in read_requests(captured)]
    assert kept == [(ROWS + np.float32(number)).tolist() for number in (0, 2, 3)]


def test_what_numpy_can_not_hold_is_left_out(tmp_path: Path) -> None:
    source, captured = tmp_path / "log.tfrecord", tmp_path / "captured.tfrecord"
    deep = PredictionLog.FromString(request().record())
    for _ in range(70):
        deep.predict_log.request.inputs["x"].tensor_shape.dim.add(size=1)
    write_records(source, [deep.SerializeToString()] * 7 + [request().record()])
    result = run(source, "--golden", captured)
    *said, last, written = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, written) == (0, "", f"{captured}: 1 request with responses")
    assert [line.split(":")[1] for line in said] == [f" {source}, record {number}" for number in range(5)]
    assert last == "Warning: skipped 2 more"


@pytest.mark.parametrize("name", ["log.tfrecord", "./log.tfrecord", "linked", "hard-linked", "folder/../log.tfrecord"])
@pytest.mark.parametrize("option", ["--golden", "--warm-up"])
def test_a_source_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "log.tfrecord"
    write_records(source, [request().record()])
    (tmp_path / "linked").symlink_to(source)
    (tmp_path / "hard-linked").hardlink_to(source)
    (tmp_path / "folder").mkdir()
    before = source.read_bytes()
    for sources, output in (((source,), name), ((name,), source), ((source, name), name)):
        result = run(*sources, option, output)
        assert result.exit_code == 2
        assert f"{option} {Path(output)} is the same file as a SOURCE" in " ".join(result.stderr.split())
        assert source.read_bytes() == before


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    source = tmp_path / "log.tfrecord"
    write_records(source, [request().record()])
    (tmp_path / "linked").symlink_to(tmp_path / "new")
    for other in ("new", "linked"):
        result = run(source, "--golden", tmp_path / "new", "--warm-up", tmp_path / other)
        assert result.exit_code == 2
        assert "is the same file as --golden" in " ".join(result.stderr.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"instances": [1]}'.encode("utf-16"), "is not UTF-8; save it as UTF-8"),
        (b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the JSON is nested too deeply"),
    ],
    ids=["utf-16", "deep"],
)
def test_a_file_of_json_that_is_none_is_refused(server: Server, tmp_path: Path, content: bytes, said: str) -> None:
    source = tmp_path / "body.json"
    source.write_bytes(content)
    result = run(source, "--model", "scale", "--server", server.url("grpc"), "--golden", tmp_path / "captured")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
