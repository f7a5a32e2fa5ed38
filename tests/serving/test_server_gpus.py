"""The GPUs of running servers, and their memory on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nvidia_smi import H200, SECOND, write_nvidia_smi
from tfserving.foundation.gpus import all_gpus
from tfserving.serving.server_gpus import container_gpus, device_text, process_gpus

Listed = Callable[..., None]


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listed:
    """Make the driver list two GPUs, and these processes."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(*processes: tuple[str, ...], gpus: tuple[tuple[str, ...], ...] = (H200, SECOND)) -> None:
        write_nvidia_smi(tmp_path, gpus, processes)

    return write


@pytest.fixture
def child() -> Iterator[int]:
    """A child of this process, as a server is of the command that runs it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def container(*requests: dict[str, Any], pid: int = 0) -> dict[str, Any]:
    """Return what `docker inspect` reports of a container with these device requests."""
    return {"HostConfig": {"DeviceRequests": [*requests]}, "State": {"Pid": pid}}


def gpu_request(count: int = 0, names: list[str] | None = None) -> dict[str, Any]:
    return {"Count": count, "DeviceIDs": names, "Capabilities": [["gpu"]]}


def test_a_server_is_on_the_gpus_where_its_processes_have_memory(listed: Listed, child: int) -> None:
    listed(("GPU-3c4d", str(child), "python3", "512"), ("GPU-3c4d", str(os.getpid()), "python3", "100"))
    found = process_gpus(os.getpid(), all_gpus())
    assert device_text(found) == "NVIDIA H200 (GPU 1), 0.6 of 140.4 GiB"
    assert device_text(found, tf32=False) == "NVIDIA H200 (GPU 1), 0.6 of 140.4 GiB; TF32 off"
    assert found is not None
    assert found[0].as_json() == {
        "index": 1,
        "uuid": "GPU-3c4d",
        "name": "NVIDIA H200",
        "total_bytes": 143771 << 20,
        "used_bytes": 612 << 20,
    }


def test_a_server_without_memory_on_a_gpu_computes_on_the_cpu(listed: Listed, child: int) -> None:
    listed(("GPU-1a2b", str(os.getpid()), "python3", "512"))
    assert process_gpus(child, all_gpus()) == ()
    assert device_text((), tf32=True) == "CPU"


def test_where_the_driver_lists_no_processes_the_device_is_unknown(listed: Listed) -> None:
    """In a container, which has numbers of its own for processes."""
    listed()
    assert process_gpus(os.getpid(), all_gpus()) is None
    assert device_text(None, tf32=True) == "unknown: nvidia-smi lists no processes here"


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process_gpus(os.getpid(), all_gpus()) == ()
    assert container_gpus(container(gpu_request(-1)), all_gpus()) is None


def test_memory_that_the_driver_does_not_report_is_left_out(listed: Listed) -> None:
    part = ("0", "GPU-1a2b", "NVIDIA H200", "[N/A]", "[N/A]", "580.65.06", "9.0")
    listed(("GPU-1a2b", str(os.getpid()), "python3", "[N/A]"), gpus=(part, SECOND))
    assert device_text(process_gpus(os.getpid(), all_gpus()), tf32=True) == "NVIDIA H200 (GPU 0); TF32 on"


@pytest.mark.parametrize(
    ("requested", "indexes"),
    [
        (gpu_request(-1), [0, 1]),
        (gpu_request(1), [0]),
        (gpu_request(names=["1"]), [1]),
        (gpu_request(names=["GPU-3c4d", "0"]), [0, 1]),
    ],
)
def test_a_container_has_the_gpus_that_it_was_created_with(
    listed: Listed, requested: dict[str, Any], indexes: list[int]
) -> None:
    listed(("GPU-1a2b", str(os.getpid()), "tensorflow_model_server", "1024"))
    found = container_gpus(container(requested, pid=os.getpid()), all_gpus())
    assert found is not None
    assert [one.gpu.index for one in found] == indexes
    assert [one.used for one in found] == [1 << 30 if index == 0 else None for index in indexes]


def test_a_container_without_gpus_computes_on_the_cpu(listed: Listed) -> None:
    listed()
    assert container_gpus(container(), all_gpus()) == ()
    assert container_gpus({"HostConfig": {"DeviceRequests": None}, "State": {}}, all_gpus()) == ()
    assert container_gpus(container({"Count": 1, "Capabilities": [["tpu"]]}), all_gpus()) == ()
