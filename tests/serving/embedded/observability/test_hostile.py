"""A server whose output nobody reads, and clients that send whatever they like: it answers, and counts what matters."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx2
import pytest

from tests.authority import Authority
from tests.servers import ModelServer, free_ports, wait_for
from tests.serving.embedded.observability.test_metrics import samples
from tests.serving.embedded.running import ROOT, Asker, together
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import read_records
from tfserving.k8s.rollout import gates

pytestmark = together
METRICS = "/monitoring/prometheus/metrics"
# More than there are threads.
MANY = 40


@dataclasses.dataclass
class Unread:
    """A server, its client, and the pipe that both its outputs go to."""

    process: subprocess.Popen[bytes]
    ask: Asker
    grpc_port: int
    rest_port: int
    pipe: int
    folder: Path

    def page(self) -> bytes:
        page: bytes = self.ask.rest.get(METRICS).content
        return page

    def counted(self, name: str, **labels: str) -> int:
        """The sum of a family's samples with these labels."""
        found = re.findall(rf"^:tensorflow:serving:{name}{{(.*)}} (\d+)$", self.page().decode(), re.M)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(int(value) for told, value in found if all(one in told for one in wanted))


@contextlib.contextmanager
def serving(engine: ModelServer, folder: Path, models: Path, *flags: str) -> Iterator[Unread]:
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    (folder / "models").write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{models}/{name}" model_platform: "tensorflow" }}'
            for name in ("scale", "kinds")
        )
        + "}"
    )
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    grpc_port, rest_port = free_ports(2)
    own = (
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={folder}/models",
        f"--monitoring_config_file={folder}/monitoring",
    )
    process = subprocess.Popen([*engine.command, *own, *flags], cwd=ROOT, stdout=write, stderr=write)
    os.close(write)
    ask = Asker(SimpleNamespace(engine=engine, grpc_port=grpc_port, rest_port=rest_port))  # type: ignore[arg-type]

    def ready() -> bool:
        assert process.poll() is None
        try:
            return ask.rest.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_for(ready, 120, "readyz")
        yield Unread(process, ask, grpc_port, rest_port, read, folder)
    finally:
        ask.close()
        process.kill()
        process.wait()
        os.close(read)


@pytest.fixture(scope="module")
def unread(models: Path, prepared: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unread]:
    folder = tmp_path_factory.mktemp("unread")
    with serving(prepared, folder, models, f"--request_log={folder}/requests", "--access_log") as running:
        yield running


def test_it_answers_whatever_is_in_a_line_and_though_nobody_reads_it(unread: Unread) -> None:
    body = json.dumps({"instances": rows(1).tolist()})
    for _ in range(MANY):
        for path in ("%FF", "%00%0A%22", "x" * 5000, "%ED%A0%80"):
            answer = unread.ask.rest.post(f"/v1/models/{path}:predict", content=body)
            assert answer.status_code == 404
            assert b"Servable not found for request" in answer.content
        assert unread.ask.post("scale:predict", body.encode())[0] == 200
        assert unread.ask.predict("scale", {"x": rows(1)})["version"].tolist() == [2]


def test_names_of_any_length_are_not_echoed_whole(unread: Unread) -> None:
    for number in range(3):
        code, text = unread.ask.error(f"{number}" + "x" * 4_000_000, {"x": rows(1)})
        assert code == "NOT_FOUND"
        assert len(text) < 2000
        body = {"signature_name": "y" * 4_000_000, "instances": rows(1).tolist()}
        status, answer = unread.ask.post("scale:predict", body)
        assert status == 400
        assert len(answer["error"]) < 20_000
    assert len(unread.page()) < 50_000


def test_the_gate_sees_failures_after_any_number_of_unknown_names(unread: Unread) -> None:
    instance: Any = SimpleNamespace(name="one", grpc=None, rest=f"127.0.0.1:{unread.rest_port}")
    unknown = unread.counted("request_count", model_name="(unknown)")
    for number in range(1100):
        assert unread.ask.error(f'unknown-{number}"\n\\', {"x": rows(1)})[0] == "NOT_FOUND"
    before = gates.page(instance, "scale")
    for _ in range(20):
        assert unread.ask.post("scale:predict", {"instances": rows(1).tolist()})[0] == 200
        assert unread.ask.post("scale:predict", {"instances": ["a"]})[0] == 400
        assert unread.ask.post("%66oo:predict", {"instances": ["a"]})[0] == 404
    window = gates.page(instance, "scale").since(before)
    assert (window.answered, window.failed) == (20, {"INVALID_ARGUMENT": 20})
    assert window.error_rate == 0.5
    assert unread.counted("request_count", model_name="(unknown)") - unknown == 1120
    names = {labels["model_name"] for _, labels in samples(unread.page()) if "model_name" in labels}
    assert {"scale", "(unknown)"} <= names <= {"scale", "kinds", "(unknown)"}


def test_requests_are_logged_after_one_with_more_dimensions_than_numpy_has(unread: Unread) -> None:
    deep = b'{"signature_name":"float32","inputs":' + b"[" * 65 + b"1" + b"]" * 65 + b"}"
    before = unread.counted("request_log_count", status="OK")
    assert unread.ask.post("kinds:predict", deep)[0] == 200
    for _ in range(5):
        unread.ask.predict("scale", {"x": rows(1)})
    wait_for(lambda: unread.counted("request_log_count", status="OK") == before + 6, 20, "the log")
    (file,) = unread.folder.glob("requests-*.tfrecord")
    records = [PredictionLog.FromString(data) for data in read_records(file)]
    assert [len(one.predict_log.request.inputs["x"].tensor_shape.dim) for one in records[-6:]] == [65, *[2] * 5]


def test_what_it_can_not_write_is_counted_and_told_when_somebody_reads(unread: Unread) -> None:
    while not unread.counted("log_lines_dropped_count", log="access"):
        for _ in range(50):
            assert unread.ask.rest.get(f"/v1/models/{'x' * 900}").status_code == 404
    output = b""
    while b'"dropped":' not in output:
        output += os.read(unread.pipe, 1 << 16)
    # The last line may be on its way.
    *lines, _ = output.decode().split("\n")
    for line in lines:
        assert json.loads(line) if line.startswith("{") else re.match(r"\d{4}-\d\d-\d\dT\S+ info: ", line), line


def test_it_ends_in_time_though_nobody_reads_what_it_says(unread: Unread) -> None:
    for _ in range(MANY):
        assert unread.ask.rest.get(f"/v1/models/{'x' * 900}").status_code == 404
    unread.process.send_signal(signal.SIGTERM)
    assert unread.process.wait(30) == 0


def test_lines_that_grpc_writes_itself_keep_nobody_waiting(
    models: Path, prepared: ModelServer, authority: Authority, tmp_path: Path
) -> None:
    with serving(prepared, tmp_path, models, f"--ssl_config_file={authority.config('tls.config')}") as unread:
        # gRPC writes a line for each, which come to more than the pipe has room for.
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", unread.grpc_port), 10) as client:
                client.sendall(b"this is no TLS\r\n" * 10)
                with contextlib.suppress(ConnectionResetError):
                    client.recv(1)
        credentials = grpc.ssl_channel_credentials(authority.text("ca.pem").encode())
        with grpc.secure_channel(f"localhost:{unread.grpc_port}", credentials) as channel:
            status: Any = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
            assert status(b"\n\x07\n\x05scale", timeout=20)
        unread.process.send_signal(signal.SIGTERM)
        assert unread.process.wait(30) == 0
