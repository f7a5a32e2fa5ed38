"""The stand-in for TensorFlow Serving does what a real one was seen to do: each habit once."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest

from tests.servers import ROOT, STAND_IN, ModelServer
from tests.serving.embedded import saved_models
from tests.serving.embedded.conftest import starting
from tests.serving.embedded.running import Asker, Gate, Process, Start, prepared, wait_until
from tests.stand_in.threads import POLLING, REFUSAL
from tfserving.foundation.messages import ReloadConfigRequest, ReloadConfigResponse
from tfserving.serving.models_yaml.server import TENSORFLOW_SERVING

THREADS = 2
CONFIG = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
PAGE = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose requests wait for a gate, another one, and one that doesn't load."""
    folder = tmp_path_factory.mktemp("models")
    good = saved_models.scale(folder / "scale", 1, 2.0)
    saved_models.gated(folder / "gated")
    saved_models.broken(folder / "broken", 1, good)
    entries = "".join(CONFIG.format(name, folder) for name in ("gated", "scale"))
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    return folder


@pytest.fixture(scope="module")
def quick() -> Iterator[ModelServer]:
    with prepared(STAND_IN) as server:
        yield server


@pytest.fixture(scope="module")
def server(quick: ModelServer, models: Path) -> Iterator[Process]:
    process = Process(
        f"--model_config_file={models}/models.config",
        "--model_config_file_poll_wait_seconds=1",
        f"--monitoring_config_file={models}/monitoring.config",
        "--enable_grpc_healthcheck_service=true",
        f"--grpc_max_threads={POLLING + THREADS}",
        f"--rest_api_num_threads={THREADS}",
        "--no_such_flag=1",
        engine=quick,
        log_level=0,
    )
    try:
        yield process.ready()
    finally:
        process.stop()


@pytest.fixture
def start(quick: ModelServer) -> Iterator[Start]:
    """Starts others, and ends them with the test."""
    yield from starting(quick)


@pytest.fixture
def ask(server: Process) -> Iterator[Asker]:
    with contextlib.closing(Asker(server)) as asker:
        yield asker


@contextlib.contextmanager
def busy(answer: Callable[[Gate], str], gate: Gate) -> Iterator[list[Future[str]]]:
    """As many requests as the server has threads, which wait until the gate is open."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield [pool.submit(answer, gate) for _ in range(THREADS)]
        finally:
            gate.open()


def waits(ask: Asker, path: str) -> bool:
    """Whether there is no answer in a while."""
    with contextlib.suppress(httpx2.ReadTimeout):
        ask.rest.get(path, timeout=0.3)
        return False
    return True


def page(ask: Asker) -> str:
    return str(ask.rest.get(PAGE).text)


def counted(text: str, model: str) -> int:
    found = re.search(rf'request_count{{model_name="{model}",status="OK"}} (\d+)', text)
    return int(found[1]) if found else 0


def run(*flags: str) -> tuple[int, str]:
    """The exit code of a start that ends by itself, and what it printed."""
    done = subprocess.run([*STAND_IN.command, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_it_takes_the_flags_of_the_real_one_alone(server: Process) -> None:
    assert "unknown argument: --no_such_flag=1" in server.output
    code, said = run("--version")
    assert code == 0
    assert said == f"TensorFlow ModelServer: {TENSORFLOW_SERVING}\nTensorFlow Library: {TENSORFLOW_SERVING}\n"
    code, said = run("--workers=2", "--enable_batching=perhaps")
    assert code == 255
    assert "enable_batching" in said


@pytest.mark.parametrize(
    ("flag", "text", "said"),
    [
        ("model_config_file", "model_config_list { nam", "INVALID_ARGUMENT: Invalid protobuf file: '{path}'"),
        ("monitoring_config_file", "nonsense", "INVALID_ARGUMENT: Invalid protobuf file: '{path}'"),
        ("batching_parameters_file", None, "NOT_FOUND: {path}; No such file or directory"),
        (
            "model_config_file",
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "onnx" } }',
            "INVALID_ARGUMENT: Model m requests unsupported platform onnx",
        ),
    ],
)
def test_a_wrong_file_ends_it_in_the_words_of_the_real_one(
    tmp_path: Path, flag: str, text: str | None, said: str
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    assert run("--port=1", "--model_base_path=/m", "--enable_batching", f"--{flag}={path}") == (
        255,
        f"Failed to start server. Error: {said.format(path=path)}\n",
    )


def test_it_has_nothing_of_the_embedded_one(server: Process, ask: Asker) -> None:
    assert [ask.rest.get(path).status_code for path in ("/healthz", "/readyz", "/v1/models")] == [404, 404, 400]
    _, text = ask.error("scale", {"nope": np.ones((1, 3), np.float32)})
    assert ";" not in text
    assert "embedded" not in server.output


def test_calls_beyond_the_threads_are_refused_and_no_page_counts_them(ask: Asker, tmp_path: Path) -> None:
    def patient(gate: Gate) -> str:
        # What looks whether calls are refused takes a thread, too.
        while (found := gate.over_grpc(ask, "gated")) == "RESOURCE_EXHAUSTED":
            pass
        return found

    def refused() -> bool:
        try:
            ask.metadata("scale")
        except grpc.RpcError as error:
            return (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, REFUSAL)
        return False

    with busy(patient, Gate(tmp_path)) as sent:
        wait_until("a refusal", refused)
        assert ask.error("scale", {"x": np.ones((1, 3), np.float32)}) == ("RESOURCE_EXHAUSTED", REFUSAL)
        health: Any = ask.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health(b"", timeout=30) == b"\x08\x01"
        assert "RESOURCE_EXHAUSTED" not in page(ask)
    assert [one.result() for one in sent] == [Gate.OPEN] * THREADS
    assert ask.metadata("scale").model_spec.name == "scale"


def test_all_of_rest_waits_for_predictions(ask: Asker, tmp_path: Path) -> None:
    with busy(lambda gate: gate.over_rest(ask, "gated"), Gate(tmp_path)) as sent:
        for path in ("/v1/models/scale/metadata", "/v1/models/scale", PAGE):
            wait_until(f"a wait for {path}", partial(waits, ask, path))
    assert [one.result() for one in sent] == [Gate.OPEN] * THREADS
    assert ask.get("scale/metadata")[0] == 200


def test_every_get_of_a_model_is_counted_as_a_request(ask: Asker) -> None:
    before = counted(page(ask), "scale")
    for path in ("scale", "scale/metadata", "scale/versions/1"):
        assert ask.get(path)[0] == 200
    # Over gRPC nothing of this is counted.
    ask.metadata("scale")
    ask.status("scale")
    after = page(ask)
    assert counted(after, "scale") == before + 3
    assert 'request_latency_count{model_name="scale",API="",entrypoint="REST"}' in after


def test_every_poll_of_the_configuration_is_logged_with_every_model(server: Process) -> None:
    line = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: I tensorflow_serving/model_servers/server_core\.cc:\d+\] "

    def logged(text: str) -> int:
        return len(re.findall(line + re.escape(text) + "$", server.output, re.M))

    wait_until("two polls", lambda: logged("Finished adding/updating models") >= 3)
    assert logged("Adding/updating models.") >= 3
    assert logged(" (Re-)adding model: gated") >= 3
    assert logged(" (Re-)adding model: scale") >= 3


def test_sigterm_ends_it_with_what_is_in_flight(start: Start, models: Path, tmp_path: Path) -> None:
    server = start(f"--model_base_path={models}/gated", "--rest_api_num_threads=1").ready()
    with contextlib.closing(Asker(server)) as ask, ThreadPoolExecutor() as pool:
        sent = pool.submit(Gate(tmp_path).over_rest, ask)
        wait_until("a request in flight", lambda: waits(ask, "/v1/models/default"))
        server.signal(signal.SIGTERM)
        assert server.wait() == -signal.SIGTERM
        with pytest.raises(httpx2.TransportError):
            sent.result()


def reload(ask: Asker, seconds: float, *folders: Path) -> None:
    request = ReloadConfigRequest()
    for folder in folders:
        request.config.model_config_list.config.add(
            name=folder.name, base_path=str(folder), model_platform="tensorflow"
        )
    ask.call("ModelService/HandleReloadConfigRequest", request, ReloadConfigResponse, seconds)


def test_a_change_that_names_a_model_again_returns_an_error_and_loads_it(start: Start, models: Path) -> None:
    server = start(f"--model_base_path={models}/scale", "--model_name=scale").ready()
    with contextlib.closing(Asker(server)) as ask:
        shutil.copytree(models / "scale", models / "again")
        reload(ask, 30, models / "scale", models / "again")
        reload(ask, 30, models / "scale")
        wait_until("its end", lambda: ask.state("again", 1) == "END")
        with pytest.raises(grpc.RpcError, match=r"did not become available: \{+name: again version: 1\}"):
            reload(ask, 30, models / "scale", models / "again")
        wait_until("its return", lambda: ask.state("again", 1) == "AVAILABLE")


def test_a_change_with_a_model_that_has_no_version_holds_up_all_later_ones(
    start: Start, models: Path, tmp_path: Path
) -> None:
    server = start(f"--model_base_path={models}/scale", "--model_name=scale").ready()
    with contextlib.closing(Asker(server)) as ask:
        reload(ask, 30, models / "scale")
        for folders in ((models / "scale", tmp_path / "absent"), (models / "scale",)):
            with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                reload(ask, 0.5, *folders)
        shutil.copytree(models / "scale", tmp_path / "absent")
        reload(ask, 30, models / "scale")


def test_a_version_that_does_not_load_ends_it_with_255(start: Start, models: Path) -> None:
    flags = (f"--model_base_path={models}/broken", "--model_name=broken", "--max_num_load_retries=0")
    server = start(*flags)
    assert server.wait() == 255
    words = (
        r"^Failed to start server\. Error: UNKNOWN: 1 servable\(s\) did not become available: "
        r"\{\{name: broken version: 1\} due to error: [A-Z_]+: .*, \}$"
    )
    assert re.search(words, server.output, re.M)


def test_where_a_load_gets_no_threads_it_aborts() -> None:
    code = """
import resource
from pathlib import Path
from typing import Any
from tests.stand_in import log
from tests.stand_in.threads import loading
log.begin()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)
with loading():
    print("loaded")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert "Thread tf_ModelDiskSizePool creation via pthread_create() failed." in done.stderr
    assert done.stdout == ""
