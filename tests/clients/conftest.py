"""What the clients' tests share: tiny models on disk, the embedded server over them, and a client per protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients import Client, connect
from clients.errors import DeadlineExceeded
from tests.servers import free_ports, wait_for

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
CONFIG = """
config {{
  name: "scale" base_path: "{folder}/scale" model_platform: "tensorflow"
  model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }}
}}
config {{ name: "words" base_path: "{folder}/words" model_platform: "tensorflow" }}
config {{ name: "flowers" base_path: "{folder}/flowers" model_platform: "tensorflow" }}
config {{ name: "tampered" base_path: "{folder}/tampered" model_platform: "tensorflow" }}
config {{ name: "moving" base_path: "{folder}/moving" model_platform: "tensorflow" }}
config {{ name: "breaking" base_path: "{folder}/breaking" model_platform: "tensorflow" }}
"""


@dataclass(frozen=True)
class Server:
    """The addresses of a running server, and the folder with its models."""

    grpc: str
    rest: str
    models: Path

    def url(self, protocol: str) -> str:
        return f"grpc://{self.grpc}" if protocol == "grpc" else f"http://{self.rest}"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of `tiny_models.py`."""
    folder = tmp_path_factory.mktemp("tiny") / "models"
    script = Path(__file__).with_name("tiny_models.py")
    subprocess.run([sys.executable, script, folder], env=ENVIRONMENT, check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded server over `models`, its error texts TensorFlow Serving's own without its explanations."""
    grpc_port, rest_port = free_ports(2)
    folder = tmp_path_factory.mktemp("server")
    config, log = folder / "models.config", folder / "log"
    config.write_text("model_config_list {" + CONFIG.format(folder=models) + "}")
    command = [sys.executable, "-m", "serving.embedded", f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
    command += [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
    command += ["--explain_errors=false", "--max_num_load_retries=0"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output)
    running = Server(f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}", models)
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
            with connect(server.url(protocol)) as client:
                for model in server.models.iterdir():
                    client.wait_until_available(model.name, timeout=0.5)
    except DeadlineExceeded:
        return False
    return True


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(server: Server, protocol: str) -> Iterator[Client]:
    """A client of `server`, over gRPC and over REST."""
    with connect(server.url(protocol)) as made:
        yield made
