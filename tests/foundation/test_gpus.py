"""The driver's list of GPUs, from a `nvidia-smi` that prints what the real one does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.driver import Driver
from tfserving.foundation.gpus import Gpu, GpuProcess, all_gpus, gpu_processes, visible_gpus

H200 = "0, GPU-1a2b3c4d-0000-1111-2222-333344445555, NVIDIA H200, 143771, 4, 580.95.05, 9.0"
T4 = "1, GPU-9f8e7d6c-0000-1111-2222-333344445555, Tesla T4, 15360, 102, 580.95.05, 7.5"
MIB = 1 << 20


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Driver(tmp_path)


def test_a_gpu_has_its_name_its_memory_and_its_driver(driver: Driver) -> None:
    driver.lists(H200)
    uuid = "GPU-1a2b3c4d-0000-1111-2222-333344445555"
    assert all_gpus() == (Gpu(0, uuid, "NVIDIA H200", 143771 * MIB, 4 * MIB, "580.95.05", "9.0"),)
    assert str(all_gpus()[0]) == "NVIDIA H200, 0.0 of 140.4 GiB used"


@pytest.mark.parametrize(
    "script", ["exit 9\n", "echo 'NVIDIA-SMI has failed'; exit 0\n", "echo a,b,c,d,e,f,g\n", ":\n"]
)
def test_a_driver_that_fails_lists_nothing(driver: Driver, script: str) -> None:
    driver.runs(script)
    assert all_gpus() == visible_gpus() == gpu_processes() == ()


@pytest.mark.usefixtures("driver")
def test_without_a_driver_there_is_no_gpu() -> None:
    assert all_gpus() == visible_gpus() == gpu_processes() == ()


def test_a_driver_that_hangs_is_given_up(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfserving.foundation.gpus._SECONDS", 0.2)
    driver.runs("exec /bin/sleep 60\n")
    began = time.monotonic()
    assert all_gpus() == ()
    assert time.monotonic() - began < 20


def test_the_sizes_of_a_part_of_a_gpu_are_unknown(driver: Driver) -> None:
    """The driver reports no sizes of a GPU that is split (MIG) to who may not see them."""
    driver.lists("0, GPU-1a2b, NVIDIA H100 80GB HBM3, [N/A], [Insufficient Permissions], 580.95.05, 9.0")
    (gpu,) = all_gpus()
    assert (gpu.total, gpu.used, str(gpu)) == (None, None, "NVIDIA H100 80GB HBM3")


def test_a_name_with_a_comma_is_one_field(driver: Driver) -> None:
    driver.lists('0, GPU-1a2b, "NVIDIA X, rev. 2", 1024, 0, 580.95.05, 8.6')
    assert [gpu.name for gpu in all_gpus()] == ["NVIDIA X, rev. 2"]


@pytest.mark.parametrize(
    ("capability", "expected"), [("7.5", False), ("8.0", True), ("9.0", True), ("12.0", True), ("[N/A]", False)]
)
def test_cards_since_ampere_have_tf32(capability: str, expected: bool) -> None:
    assert Gpu(0, "GPU-1", "a card", None, None, compute_capability=capability).has_tf32 is expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["NVIDIA H200", "Tesla T4"]),
        ("0", ["NVIDIA H200"]),
        ("1", ["Tesla T4"]),
        ("1,0", ["Tesla T4", "NVIDIA H200"]),
        (" 1 , 0 ", ["Tesla T4", "NVIDIA H200"]),
        ("GPU-9f8e7d6c-0000-1111-2222-333344445555", ["Tesla T4"]),
        # A UUID may be shortened.
        ("GPU-9f8e,GPU-1a2b", ["Tesla T4", "NVIDIA H200"]),
        ("-1", []),
        ("", []),
        # A name that fits no GPU ends the list.
        ("0,-1,1", ["NVIDIA H200"]),
        ("7,0", []),
        ("GPU-ffff", []),
        ("MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", []),
    ],
)
def test_cuda_visible_devices_chooses_gpus(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: list[str]
) -> None:
    driver.lists(H200, T4)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [gpu.name for gpu in visible_gpus()] == expected


def test_the_processes_on_a_gpu_are_listed_with_what_they_use(driver: Driver) -> None:
    driver.lists(
        H200,
        processes=(
            "GPU-1a2b, 4242, /usr/bin/python3, 141438",
            "GPU-1a2b, 77, [Not Found], [N/A]",
            "GPU-1a2b, [N/A], gone, 1",
        ),
    )
    assert gpu_processes() == (
        GpuProcess("GPU-1a2b", 4242, "/usr/bin/python3", 141438 * MIB),
        GpuProcess("GPU-1a2b", 77, "[Not Found]", None),
    )
