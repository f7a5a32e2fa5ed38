"""The health check of a container, against servers: what makes it fail, what keeps it waiting, and what counts it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2
import pytest

from tests.servers import EMBEDDED, STAND_IN, ModelServer, free_ports, model_servers
from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Asker, Gate, Process, Start, both_transports, together, wait_until
from tests.serving.embedded.saved_models import rows
from tests.serving.embedded.test_operation import config
from tfserving.clients import connect
from tfserving.foundation.messages import PredictRequest, PredictResponse
from tfserving.foundation.tensors import to_proto
from tfserving.serving.config import METRICS_PATH, on_host, server_config
from tfserving.serving.health import HEALTH, health_script, health_script_over_rest
from tfserving.serving.models_yaml.fleet import Fleet, read_fleet

pytestmark = together
each = pytest.mark.parametrize("engine", [*model_servers(), STAND_IN], indirect=True, ids=lambda engine: engine.name)


def fleet(folder: Path, **labels: str) -> Fleet:
    """A fleet of these models, each with labels as models.yaml has them."""
    said = "".join(f"  {name}: {{builder: 'm:build', labels: {{{text}}}}}\n" for name, text in labels.items())
    (folder / "models.yaml").write_text(f"models:\n{said}")
    return read_fleet(folder / "models.yaml")


def check(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a health check, as an engine does."""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)


def over_grpc(server: Process, fleet: Fleet) -> subprocess.CompletedProcess[str]:
    return check(health_script(fleet, tuple(fleet.models), server.grpc_port))


def over_rest(server: Process, fleet: Fleet) -> subprocess.CompletedProcess[str]:
    return check(health_script_over_rest(fleet, tuple(fleet.models), server.rest_port))


def unhealthy(done: subprocess.CompletedProcess[str], said: str) -> bool:
    """Whether a health check failed, and said this."""
    return done.returncode == 1 and said in done.stdout


def counted(server: Process) -> list[str]:
    """What the metrics page has counted of requests."""
    page = httpx2.get(f"http://127.0.0.1:{server.rest_port}{METRICS_PATH}", trust_env=False).text
    return [line for line in page.splitlines() if line.startswith((":tensorflow:serving:request_",))]


@pytest.fixture(scope="module")
def generated(
    quick: ModelServer, engine: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, Path]]:
    """A server with the files and flags that are generated from models.yaml, and its own health check."""
    folder = tmp_path_factory.mktemp("generated")
    for version in (1, 2, 3):
        saved_models.scale(folder / "models/scale", version, 1.0)
    saved_models.scale(folder / "models/other", 1, 1.0)
    made = fleet(folder, scale="stable: 2, previous: 1, canary: 3", other="")
    (grpc_port, rest_port), files = free_ports(2), folder / "config"
    places = on_host(made, grpc_port, rest_port, files)
    config = server_config(made, tuple(made.models), places, embedded=engine.embedded)
    files.mkdir()
    for name, text in config.files.items():
        (files / name).write_text(text)
    flags = [flag for flag in config.flags if not flag.startswith(("--port", "--rest_api_port"))]
    server = Process(*flags, grpc_port=grpc_port, rest_port=rest_port, engine=quick)
    try:
        yield server.ready(), files / HEALTH
    finally:
        server.stop()


@each
def test_a_server_is_healthy_while_it_has_every_model_and_label(generated: tuple[Process, Path]) -> None:
    server, script = generated
    done = check(script.read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    version = script.parents[1] / "models/scale/1"
    version.rename(script.parent / "away")
    wait_until("its unloading", lambda: unhealthy(check(script.read_text()), "model scale, label previous: "))
    (script.parent / "away").rename(version)
    wait_until("its return", lambda: check(script.read_text()).returncode == 0)
    assert server.process.poll() is None


@each
def test_a_server_is_healthy_without_its_canary(generated: tuple[Process, Path]) -> None:
    server, script = generated
    version = script.parents[1] / "models/scale/3"
    with connect(f"grpc://127.0.0.1:{server.grpc_port}") as client:
        assert client.wait_until_available("scale-canary") == 3
        version.rename(script.parent / "away")
        wait_until("its unloading", lambda: client.status("scale-canary")[0].state == "END")
        assert check(script.read_text()).returncode == 0
        (script.parent / "away").rename(version)
        assert client.wait_until_available("scale-canary") == 3


@each
def test_health_checks_are_not_counted_as_requests(generated: tuple[Process, Path], tmp_path: Path) -> None:
    server, script = generated
    before = counted(server)
    assert check(script.read_text()).returncode == 0
    assert unhealthy(over_grpc(server, fleet(tmp_path, none="")), "model none: ")
    assert counted(server) == before


@both_transports
@pytest.mark.parametrize("way", [over_grpc, over_rest])
def test_what_a_server_lacks_is_reported(server: Process, engine: ModelServer, tmp_path: Path, way: object) -> None:
    assert callable(way)
    if way is over_grpc and engine == EMBEDDED:
        # pygrpc-native compresses headers, and a shell can't read what is wrong.
        assert unhealthy(way(server, fleet(tmp_path, scale="", none="")), "model none: no metadata over gRPC")
        assert unhealthy(way(server, fleet(tmp_path, scale="gone: 77")), "model scale, label gone: no metadata over")
        return
    assert way(server, fleet(tmp_path, scale="stable: 1", pair="")).returncode == 0
    rest = way is over_rest
    missing = way(server, fleet(tmp_path, scale="", none=""))
    assert unhealthy(missing, "/v1/models/none/metadata: HTTP/1.1 404" if rest else "model none: Servable not found")
    gone = way(server, fleet(tmp_path, scale="gone: 77"))
    assert unhealthy(gone, "/versions/77/metadata: " if rest else "model scale, label gone: Servable not found for req")
    if not rest:
        unset = way(server, fleet(tmp_path, pair="stable: 1"))
        assert unhealthy(unset, "model pair, label stable: Unrecognized servable version label: stable")


@pytest.mark.parametrize(
    ("response", "seconds"),
    [(None, 5), (b"", 0), (b"HTTP/1.1 400 Bad Request\r\n\r\n", 0), (b"\0\0\0\4\0\0\0\0\0", 0)],
    ids=["silent", "hangs up", "of another kind", "ends"],
)
def test_what_does_not_respond_is_not_healthy(tmp_path: Path, response: bytes | None, seconds: float) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with listening.accept()[0] as connection:
                if response is None:
                    over.wait()
                connection.sendall(response or b"")

        accepting = threading.Thread(target=accept)
        accepting.start()
        begun = time.monotonic()
        done = check(health_script(fleet(tmp_path, scale=""), ("scale",), listening.getsockname()[1]))
        took = time.monotonic() - begun
        over.set()
        accepting.join()
    assert unhealthy(done, "model scale: no metadata over gRPC")
    assert seconds <= took < seconds + 3


def test_where_nothing_listens_nothing_is_healthy(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    done = check(health_script(fleet(tmp_path, scale=""), ("scale",), port))
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


def metadata_over_rest(ask: Asker) -> bool:
    """Whether a server responds to what the health check over REST requests."""
    try:
        return ask.rest.get("/v1/models/scale/metadata", timeout=0.5).is_success
    except httpx2.TimeoutException:
        return False


def prediction_over_grpc(ask: Asker) -> bool:
    """Whether a server has a thread for a prediction."""
    request = PredictRequest()
    request.model_spec.name = "scale"
    request.inputs["x"].CopyFrom(to_proto(rows(1)))
    try:
        ask.call("PredictionService/Predict", request, PredictResponse, seconds=0.5)
    except grpc.RpcError:
        return False
    return True


@each
def test_a_server_whose_threads_are_busy_is_healthy_at_once(
    start: Start, engine: ModelServer, models: Path, tmp_path: Path
) -> None:
    """Other requests wait, or are refused: TensorFlow Serving refuses the calls that exceed gRPC's threads."""
    flags = ["--grpc_max_threads=5", "--rest_api_num_threads=1", *(["--allow_file_and_python_ops"] * engine.embedded)]
    server = start(config(tmp_path, gated=models / "gated", scale=models / "scale"), *flags).ready()
    ask, gate, made = Asker(server), Gate(tmp_path), fleet(tmp_path, scale="", gated="")
    with ThreadPoolExecutor(8) as pool:
        try:
            for send in [gate.over_rest, *[gate.over_grpc] * 5]:
                pool.submit(send, ask, "gated")
            # In the embedded server what waits for a model's turn leaves its thread to others.
            if not engine.embedded:
                wait_until("REST's being busy", lambda: not metadata_over_rest(ask))
                wait_until("gRPC's being busy", lambda: not prediction_over_grpc(ask))
            begun = time.monotonic()
            done = over_grpc(server, made)
            took = time.monotonic() - begun
        finally:
            gate.open()
    ask.close()
    assert (done.returncode, done.stdout) == (0, "")
    assert took < 1
