"""The variables of a server on GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.nvidia_smi import H200, SECOND, write_nvidia_smi
from tfserving.serving.gpu_environment import GpuError, gpu_environment, process_environment, visible_devices
from tfserving.serving.models_yaml.server import ServerSettings


def settings(**given: Any) -> ServerSettings:
    return ServerSettings.model_validate(given)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, (H200, SECOND))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_tensorflow_serving_computes_without_tf32_unless_it_is_chosen() -> None:
    assert gpu_environment(settings(), embedded=False) == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert gpu_environment(settings(tf32=True), embedded=False) == {}


def test_deterministic_replaces_the_measurement_of_algorithms() -> None:
    found = gpu_environment(settings(tf32=True, deterministic=True), embedded=False)
    assert found == {"TF_CUDNN_USE_AUTOTUNE": "0"}


def test_memory_grows_only_where_it_is_chosen() -> None:
    assert gpu_environment(settings(tf32=True, gpu_memory_growth=True), embedded=False) == {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true"
    }
    assert gpu_environment(settings(tf32=True, gpu_memory_growth=False), embedded=False) == {}


def test_the_embedded_server_has_flags_instead() -> None:
    assert gpu_environment(settings(deterministic=True, gpu_memory_growth=True), embedded=True) == {}


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize(
    ("server", "by_hand", "left"),
    [
        ({"tf32": True}, {"NVIDIA_TF32_OVERRIDE": "0"}, {}),
        ({"gpu_memory_growth": False}, {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}, {}),
        # These settings leave it to TensorFlow.
        ({"tf32": True}, {"TF_CUDNN_USE_AUTOTUNE": "0"}, {"TF_CUDNN_USE_AUTOTUNE": "0"}),
        ({"tf32": True}, {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}, {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}),
        (
            {"tf32": True},
            {"HOME": "/root", "CUDA_VISIBLE_DEVICES": "1"},
            {"HOME": "/root", "CUDA_VISIBLE_DEVICES": "1"},
        ),
    ],
)
def test_a_setting_replaces_what_is_set_by_hand(
    server: dict[str, Any], by_hand: dict[str, str], left: dict[str, str], embedded: bool
) -> None:
    expected = left if embedded else {**left, **gpu_environment(settings(**server), embedded=False)}
    assert process_environment(settings(**server), by_hand, embedded=embedded) == expected


def test_a_wrong_value_by_hand_is_replaced() -> None:
    by_hand = {"NVIDIA_TF32_OVERRIDE": "1", "TF_CUDNN_USE_AUTOTUNE": "1"}
    made = process_environment(settings(deterministic=True), by_hand, embedded=False)
    assert made == {"NVIDIA_TF32_OVERRIDE": "0", "TF_CUDNN_USE_AUTOTUNE": "0"}


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [
        (None, {}),
        ("all", {}),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-1a2b"}),
        (2, {"CUDA_VISIBLE_DEVICES": "GPU-1a2b,GPU-3c4d"}),
        ([1], {"CUDA_VISIBLE_DEVICES": "GPU-3c4d"}),
        (["GPU-3c4d", 0], {"CUDA_VISIBLE_DEVICES": "GPU-3c4d,GPU-1a2b"}),
        # A part of a GPU.
        (["MIG-5e6f"], {"CUDA_VISIBLE_DEVICES": "MIG-5e6f"}),
    ],
)
def test_a_process_sees_the_gpus_of_models_yaml(gpus: Any, chosen: dict[str, str]) -> None:
    assert visible_devices(settings(gpus=gpus)) == chosen


@pytest.mark.usefixtures("two_gpus")
def test_a_number_selects_among_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert visible_devices(settings(gpus=1)) == {"CUDA_VISIBLE_DEVICES": "GPU-3c4d"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(GpuError, match=r"got 2, expected 2 visible GPUs. Here are 1 \(NVIDIA H200, GPU-3c4d\)"):
        visible_devices(settings(gpus=2))


@pytest.mark.usefixtures("two_gpus")
def test_a_part_of_a_gpu_that_is_visible_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5e6f")
    assert visible_devices(settings(gpus=1)) == {"CUDA_VISIBLE_DEVICES": "MIG-5e6f"}
    assert visible_devices(settings(gpus="all")) == {}
    with pytest.raises(GpuError, match=r"expected 2 visible GPUs. CUDA_VISIBLE_DEVICES has \['MIG-5e6f'\]"):
        visible_devices(settings(gpus=2))


@pytest.mark.usefixtures("two_gpus")
def test_a_name_that_is_no_gpu_is_an_error_that_lists_them() -> None:
    with pytest.raises(GpuError) as caught:
        visible_devices(settings(gpus=[0, 7]))
    assert str(caught.value) == (
        "this machine has no GPU '7'. Here are 0 (NVIDIA H200, GPU-1a2b), 1 (NVIDIA H200, GPU-3c4d). Name some of "
        "these, or set a number of GPUs"
    )


@pytest.mark.parametrize("gpus", ["all", 1, [0]])
def test_without_a_gpu_there_is_nothing_to_select(gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GpuError, match="nvidia-smi lists none here"):
        visible_devices(settings(gpus=gpus))
