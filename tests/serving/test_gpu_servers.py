"""The variables that servers on GPUs get: a process, and an image that contains models."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.nvidia_smi import H200, SECOND, write_nvidia_smi
from tests.servers import free_ports
from tests.serving.fleets import GOOD, fleet
from tfserving.foundation.model_server import VARIABLE
from tfserving.serving.docker.bake import serve_script
from tfserving.serving.engines import EngineError, Plan
from tfserving.serving.engines.process import Native

NAMES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_USE_AUTOTUNE", "TF_FORCE_GPU_ALLOW_GROWTH")
# Prints its variables in place of serving.
PROGRAM = "#!/bin/sh\n" + "".join(f'echo "{name}=${name}"\n' for name in NAMES) + "exit 1\n"


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, (H200, SECOND))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "model_server"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def planned(folder: Path, server: str) -> Plan:
    grpc_port, rest_port = free_ports(2)
    return Plan(fleet(folder, f"{GOOD}server: {{{server}}}\n"), ("digits",), "127.0.0.1", grpc_port, rest_port)


def started(folder: Path, server: str) -> list[str]:
    """Return the variables of a native server of a fleet with these settings."""
    plan = planned(folder, server)
    with pytest.raises(EngineError) as caught:
        Native().start(plan).wait_until_ready(60, lambda _: None)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    return [line for line in lines if line.startswith(NAMES) and not line.endswith("=")]


@pytest.mark.usefixtures("two_gpus")
def test_a_process_gets_the_settings_of_models_yaml_whatever_is_set_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(tmp_path, "") == ["NVIDIA_TF32_OVERRIDE=0"]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = started(tmp_path, "tf32: true, deterministic: true, gpu_memory_growth: true, gpus: [1]")
    assert made == ["CUDA_VISIBLE_DEVICES=GPU-3c4d", "TF_CUDNN_USE_AUTOTUNE=0", "TF_FORCE_GPU_ALLOW_GROWTH=true"]


@pytest.mark.usefixtures("two_gpus")
def test_a_process_does_not_start_without_its_gpus(tmp_path: Path) -> None:
    plan = planned(tmp_path, "gpus: [2]")
    with pytest.raises(EngineError, match=r"^server\.gpus: this machine has no GPU '2'\. Here are 0 \(NVIDIA H200"):
        Native().start(plan)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("server", "variables"),
    [
        ("", ["NVIDIA_TF32_OVERRIDE=0"]),
        ("tf32: true, deterministic: true", ["TF_CUDNN_USE_AUTOTUNE=0"]),
        ("deterministic: true, image: 'serving-embedded:2.21.0-gpu'", []),
    ],
)
def test_the_settings_are_part_of_an_image(tmp_path: Path, server: str, variables: list[str]) -> None:
    read = fleet(tmp_path, f"{GOOD}server: {{{server}}}\n")
    script = serve_script(read, []).replace("exec ", "env #")
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    assert [line for line in done.stdout.splitlines() if line.startswith(NAMES)] == variables
