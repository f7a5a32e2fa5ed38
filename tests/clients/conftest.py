"""What the clients' tests share: tiny models on disk, servers over them, and a client per protocol.

The files whose tests use these servers are one group each, so that they are started once: `pytestmark = ON_SERVERS`, or
`UNDER_LOAD` for those that keep all processors busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tests.authority import Authority
from tests.servers import STAND_IN, free_ports, model_servers, wait_for
from tfserving.clients import Client, Tls, connect, connect_async
from tfserving.clients.errors import DeadlineExceeded

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
ON_SERVERS, UNDER_LOAD = pytest.mark.xdist_group("clients of servers"), pytest.mark.xdist_group("servers under load")
# The model servers of this machine. Tests of what a server answers run on each of them.
FLAGS = {
    "embedded": ("--explain_errors=false", "--file_system_poll_wait_seconds=0.1"),
    # By default it has so few threads that it refuses calls that come at the same time.
    "native": ("--grpc_max_threads=256", "--rest_api_num_threads=256"),
}
STANDING_IN = "stand-in"
ENGINES = {engine.name: [*engine.command, *FLAGS[engine.name]] for engine in model_servers()}
MONITORING = 'prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }'
CONFIG = """
config {{
  name: "scale" base_path: "{folder}/scale" model_platform: "tensorflow"
  model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }}
}}
config {{
  name: "trial" base_path: "{folder}/scale" model_platform: "tensorflow"
  model_version_policy {{ specific {{ versions: 1 }} }} version_labels {{ key: "stable" value: 1 }}
}}
config {{
  name: "trial-canary" base_path: "{folder}/scale" model_platform: "tensorflow"
  model_version_policy {{ specific {{ versions: 2 }} }} version_labels {{ key: "canary" value: 2 }}
}}
config {{ name: "words" base_path: "{folder}/words" model_platform: "tensorflow" }}
config {{ name: "flowers" base_path: "{folder}/flowers" model_platform: "tensorflow" }}
config {{ name: "centred" base_path: "{folder}/centred" model_platform: "tensorflow" }}
config {{ name: "shared" base_path: "{folder}/shared" model_platform: "tensorflow" }}
config {{ name: "tampered" base_path: "{folder}/tampered" model_platform: "tensorflow" }}
config {{ name: "rounded" base_path: "{folder}/rounded" model_platform: "tensorflow" }}
config {{ name: "moving" base_path: "{folder}/moving" model_platform: "tensorflow" }}
config {{ name: "breaking" base_path: "{folder}/breaking" model_platform: "tensorflow" }}
"""


@dataclass(frozen=True)
class Server:
    """A running server: its addresses, its models, the folder with its configuration, what its clients need for TLS."""

    grpc: str
    rest: str
    models: Path
    folder: Path
    tls: Tls | None = None
    rest_tls: Tls | None = None

    def url(self, protocol: str) -> str:
        secure = "s" if self.tls_of(protocol) else ""
        return f"grpc{secure}://{self.grpc}" if protocol == "grpc" else f"http{secure}://{self.rest}"

    def tls_of(self, protocol: str) -> Tls | None:
        return self.tls if protocol == "grpc" else self.rest_tls


class Awaiting:
    """An AsyncClient whose calls are awaited on an event loop in a thread: what `Client` is, made of the other."""

    def __init__(self, url: str, tls: Tls | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = connect_async(url, tls=tls)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *given, **named: asyncio.run_coroutine_threadsafe(found(*given, **named), self._loop).result(90)

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of `tiny_models.py`."""
    # Here, not above: most tests of the clients need no TensorFlow.
    from tests.clients import tiny_models

    folder = tmp_path_factory.mktemp("tiny") / "models"
    tiny_models.write(folder)
    return folder


@pytest.fixture(scope="session")
def embedded_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded server over `models`, its error texts TensorFlow Serving's own without its explanations."""
    with serving(models, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def native_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """TensorFlow Serving itself, over models of its own: tests change them."""
    folder = tmp_path_factory.mktemp("native")
    shutil.copytree(models, folder / "models")
    with serving(folder / "models", folder, engine="native") as running:
        yield running


@pytest.fixture(scope="session")
def tls_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded server that speaks TLS alone, with clients that have a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    config = authority.config("tls.config", "client_verify: true", f"custom_ca: {json.dumps(authority.text('ca.pem'))}")
    tls = Tls(authority.path("ca.pem"), authority.path("client.pem"), authority.path("client.key"))
    with serving(models, folder, f"--ssl_config_file={config}", "--rest_api_enable_tls", tls=tls) as running:
        yield running


@pytest.fixture(scope="session")
def grpc_tls_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded server that has TLS on gRPC alone, as TensorFlow Serving has it."""
    folder = tmp_path_factory.mktemp("grpc-tls")
    authority = Authority(folder)
    config = authority.config("tls.config")
    tls = Tls(authority.path("ca.pem"))
    with serving(models, folder, f"--ssl_config_file={config}", tls=tls) as running:
        yield running


@pytest.fixture
def server(embedded_server: Server) -> Server:
    """The server of tests that are about the client."""
    return embedded_server


@contextlib.contextmanager
def serving(
    models: Path, folder: Path, *flags: str, engine: str = "embedded", tls: Tls | None = None
) -> Iterator[Server]:
    """A server over `models`, with the configuration and the log in `folder`; `tls` is for gRPC, or for both."""
    grpc_port, rest_port = free_ports(2)
    config, monitoring, log = folder / "models.config", folder / "monitoring.config", folder / "log"
    config.write_text("model_config_list {" + CONFIG.format(folder=models) + "}")
    monitoring.write_text(MONITORING)
    command = [
        *(STAND_IN.command if engine == STANDING_IN else ENGINES[engine]),
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
    ]
    command += [f"--model_config_file={config}", f"--monitoring_config_file={monitoring}"]
    command += ["--allow_version_labels_for_unavailable_models=true", "--max_num_load_retries=0", *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output)
    running = Server(
        f"127.0.0.1:{grpc_port}",
        f"127.0.0.1:{rest_port}",
        models,
        folder,
        tls,
        tls if "--rest_api_enable_tls" in flags else None,
    )
    try:
        wait_for(lambda: process.poll() is not None or available(running), 120, "the server's start")
        assert process.poll() is None, f"the server ended with exit code {process.returncode}:\n{log.read_text()}"
        yield running
    finally:
        process.terminate()
        process.wait(30)


def available(server: Server) -> bool:
    """Whether every model can be asked over both protocols."""
    try:
        for protocol in ("grpc", "rest"):
            with connect(server.url(protocol), tls=server.tls_of(protocol)) as client:
                for model in server.models.iterdir():
                    client.wait_until_available(model.name, timeout=0.5)
    except DeadlineExceeded:
        return False
    return True


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["blocking", "asyncio"])
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["plain", "TLS", *(["native"] if "native" in ENGINES else [])])
def served(request: pytest.FixtureRequest) -> Server:
    """The server: the embedded one without and with TLS, and TensorFlow Serving, which has no TLS for REST."""
    fixture = {"plain": "embedded_server", "TLS": "tls_server", "native": "native_server"}[request.param]
    found: Server = request.getfixturevalue(fixture)
    return found


@pytest.fixture
def client(served: Server, protocol: str, style: str) -> Iterator[Client]:
    """A client of `served`, over gRPC and REST, blocking and on an event loop."""
    if style == "blocking":
        with connect(served.url(protocol), tls=served.tls) as made:
            yield made
        return
    awaiting = Awaiting(served.url(protocol), served.tls)
    yield cast("Client", awaiting)
    awaiting.end()
