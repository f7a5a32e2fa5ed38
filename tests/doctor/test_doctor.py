"""`tfserving doctor`: what it reports of this machine, and of worse ones."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.nvidia_smi import H200, SECOND, write_nvidia_smi
from tests.servers import free_ports
from tfserving.cli import tfserving
from tfserving.doctor.engines import gives_gpus
from tfserving.foundation.model_server import VARIABLE

FLEET = "models:\n  mine:\n    builder: mine:build\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where doctor runs: a model without a version. There is no Docker Engine, and no kubectl on PATH."""
    (tmp_path / "models.yaml").write_text(FLEET)
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # No check is late on a busy machine.
    monkeypatch.setattr("tfserving.doctor.command._SECONDS", 60.0)
    return tmp_path


def doctor(*arguments: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The exit code, the checks by name, and what is reported of `serve`."""
    grpc, rest = free_ports(2)
    ports = [] if "--port" in arguments else ["--port", str(grpc), "--rest-port", str(rest)]
    done = CliRunner().invoke(tfserving, ["doctor", "--json", *ports, *arguments])
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    return done.exit_code, {check["name"]: check for check in report["checks"]}, report["serve"]


def test_serve_takes_the_embedded_server_where_nothing_better_is() -> None:
    code, checks, serve = doctor()
    assert code == 0
    assert serve["engine"] == "embedded"
    docker, native = serve["reasons"]
    assert docker.startswith("docker: ")
    assert native.startswith("native: no tensorflow_model_server")
    states = {name: check["state"] for name, check in checks.items()}
    assert states["TensorFlow"] == states["embedded"] == states["models.yaml"] == states["tfserving"] == "ok"
    assert states["Docker"] == states["native"] == states["Kubernetes"] == "missing"
    assert all(check["hint"] for check in checks.values() if check["state"] != "ok")
    assert checks["models.yaml"]["data"]["models"] == {"mine": []}
    assert checks["disk"]["data"]["free_bytes"] > 0
    assert checks["memory"]["data"]["available_bytes"] > 0


def test_an_engine_that_is_named_must_be_there() -> None:
    code, _, serve = doctor("--engine", "docker")
    assert code == 1
    assert serve["engine"] is None
    assert serve["reasons"][1].startswith("docker: no Docker Engine")


def test_a_model_server_on_path_is_preferred(monkeypatch: pytest.MonkeyPatch, stand_in: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    monkeypatch.setenv("PATH", os.defpath)
    code, checks, serve = doctor()
    assert (code, serve["engine"]) == (0, "native")
    assert checks["native"]["found"] == str(stand_in)


def test_a_port_that_is_taken_names_who_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, checks, serve = doctor("--port", str(port), "--rest-port", str(free_ports(1)[0]))
    assert code == 1
    found = checks[f"port {port}"]
    assert found["state"] == "problem"
    assert f"process {os.getpid()} (" in found["found"]
    assert serve["reasons"] == [f"port {port}: {found['found']}"]


def test_a_wrong_models_yaml_is_a_problem_with_its_line(project: Path) -> None:
    (project / "models.yaml").write_text(f"{FLEET}    bulder: x\n")
    code, checks, serve = doctor()
    assert code == 1
    assert checks["models.yaml"]["state"] == "problem"
    assert "models.yaml:4" in checks["models.yaml"]["found"]
    assert serve["reasons"][0].startswith("models.yaml: ")


def test_a_key_that_trust_names_and_is_not_there_is_a_problem(project: Path) -> None:
    (project / "models.yaml").write_text(f"{FLEET}trust: {{keys: [missing.pub]}}\n")
    code, checks, _ = doctor()
    assert code == 1
    assert checks["models.yaml"]["state"] == "problem"
    assert checks["models.yaml"]["found"] == f"trust: {project}/missing.pub: No such file or directory"


def test_a_model_that_does_not_exist_is_a_problem() -> None:
    code, checks, _ = doctor("yours")
    assert code == 1
    assert "yours" in checks["models.yaml"]["found"]


def test_without_models_yaml_there_is_a_way_to_one(project: Path) -> None:
    (project / "models.yaml").unlink()
    code, checks, _ = doctor()
    assert code == 1
    assert checks["models.yaml"]["state"] == "missing"
    assert "init`" in checks["models.yaml"]["hint"]


def test_a_program_that_hangs_does_not_hold_it_up(project: Path) -> None:
    kubectl = project / "bin/kubectl"
    kubectl.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    kubectl.chmod(0o755)
    began = time.monotonic()
    code, checks, _ = doctor()
    assert time.monotonic() - began < 20
    assert code == 0, "serve needs no cluster"
    assert "no response within 3 s" in checks["Kubernetes"]["found"]


def test_the_table_fits_a_terminal_and_ends_with_what_serve_will_use() -> None:
    grpc, rest = free_ports(2)
    command = [sys.executable, "-m", "tfserving", "doctor", "--port", str(grpc), "--rest-port", str(rest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table, _, last = done.stdout.partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert all(line == line.rstrip() for line in table.splitlines())
    assert last.startswith("`tfserving serve` will use the embedded server, because\n  docker: ")


def test_a_gpu_is_named_with_its_memory_its_driver_and_who_uses_it(project: Path) -> None:
    """The environment of the tests has no CUDA."""
    write_nvidia_smi(project / "bin", (H200, SECOND), (("GPU-3c4d", "4242", "python3", "136000"),))
    code, checks, _ = doctor()
    found = checks["GPU"]
    assert code == 0, "serve can use the CPU"
    assert found["found"].splitlines() == [
        "GPU 0: NVIDIA H200, 0.7 of 140.4 GiB used, compute capability 9.0",
        "GPU 1: NVIDIA H200, 0.0 of 140.4 GiB used, compute capability 9.0",
        "  process 4242 (python3) has 132.8 GiB",
        "driver 580.65.06; TF32 is off unless server.tf32 is true",
    ]
    assert "tensorflow[and-cuda]" in found["hint"]
    assert not found["data"]["tensorflow_can_use_it"]
    first = found["data"]["gpus"][0]
    assert (first["uuid"], first["total_bytes"], first["has_tf32"]) == ("GPU-1a2b", 143771 << 20, True)
    assert found["data"]["processes"] == [
        {"uuid": "GPU-3c4d", "pid": 4242, "name": "python3", "used_bytes": 136000 << 20}
    ]


def test_a_gpu_that_is_hidden_or_divided_is_named_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(project / "bin", (H200, ("1", "GPU-3c4d", "Tesla T4", "[N/A]", "[N/A]", "580.65.06", "7.5")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    _, checks, _ = doctor()
    assert checks["GPU"]["found"].splitlines()[1:3] == [
        "GPU 1: Tesla T4, compute capability 7.5, hidden by CUDA_VISIBLE_DEVICES",
        "  the driver does not report its memory, as of a GPU in parts (MIG); `nvidia-smi -L` lists them",
    ]


def test_gpus_of_models_yaml_that_are_not_here_stop_a_server(project: Path) -> None:
    (project / "models.yaml").write_text(f"{FLEET}server: {{gpus: [0, 1]}}\n")
    code, checks, serve = doctor()
    assert code == 1
    assert checks["GPU"]["hint"].startswith("server.gpus: this machine has no GPU '0'. nvidia-smi lists none here")
    assert serve["reasons"] == ["GPU: no NVIDIA GPU found"]
    write_nvidia_smi(project / "bin", (H200, SECOND))
    assert doctor()[0] == 0


@pytest.mark.parametrize(
    ("info", "gives"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, True),
        ({"Runtimes": {"runc": {}}}, False),
        ({"Runtimes": None, "DiscoveredDevices": None}, False),
    ],
)
def test_docker_gives_gpus_with_nvidias_runtime_or_devices(info: dict[str, Any], gives: bool) -> None:
    assert gives_gpus(info) is gives


def test_docker_gives_gpus_with_nvidias_hook(project: Path) -> None:
    hook = project / "bin/nvidia-container-runtime-hook"
    hook.touch(mode=0o755)
    assert gives_gpus({})
