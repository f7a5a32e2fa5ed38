"""What a process that serves sets in TensorFlow. It has no GPU; one is pretended where the configuration needs one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Driver
from tfserving.foundation.messages import message
from tfserving.serving.embedded.core.loader import Runtime, Servable
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu import memory
from tfserving.serving.embedded.gpu.found import FoundGpu, find_gpus
from tfserving.serving.embedded.gpu.memory import GpuMemory
from tfserving.serving.embedded.gpu.sessions import ALONE, Place
from tfserving.serving.embedded.processes import process, serving_process
from tfserving.serving.embedded.processes.plan import read_plan
from tfserving.serving.embedded.processes.serving_process import ServingProcess


@pytest.fixture(autouse=True)
def _left_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from tensorflow.python.framework import config

    Driver(tmp_path).lists("0, GPU-0, NVIDIA H200, 143771, 4, 580.95.05, 9.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(memory, "gpu_memory", GpuMemory())
    before = config.tensor_float_32_execution_enabled()
    yield
    config.enable_tensor_float_32_execution(before)
    # A server never frees what it has imported.
    gc.unfreeze()


def serving(models: Path, place: Place = ALONE, **flags: Any) -> ServingProcess:
    return ServingProcess(read_plan(Flags(model_base_path=f"{models}/scale", **flags)), place=place)


@pytest.mark.parametrize("enabled", [False, True])
def test_tf32_is_off_unless_a_flag_turns_it_on(models: Path, enabled: bool) -> None:
    assert not Flags.enable_tf32
    from tensorflow.python.framework.config import tensor_float_32_execution_enabled

    serving(models, enable_tf32=enabled)
    assert tensor_float_32_execution_enabled() is enabled


def test_there_is_no_gpu_here() -> None:
    """If this fails, the tests run on a GPU, and those that pretend one show less than they could."""
    assert find_gpus() == ()


def test_the_sessions_of_a_process_get_its_share(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = []

    def load(_model: str, _version: int, _path: Path, runtime: Runtime) -> Servable:
        configs.append(runtime.session_config)
        raise RequestError(Code.INTERNAL, "Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(process, "find_gpus", lambda: (FoundGpu("NVIDIA H200", (9, 0)),))
    monkeypatch.setattr(serving_process, "load", load)
    with pytest.raises(RequestError, match=r"CUDNN_STATUS_NOT_INITIALIZED; .* GPU 0 \(NVIDIA H200\) are used"):
        serving(models, Place(1, 2)).load("scale", 1, models / "scale/1")
    options = message("tensorflow.ConfigProto").FromString(configs[0]).gpu_options
    assert (options.allow_growth, options.visible_device_list) == (True, "0")
    assert options.per_process_gpu_memory_fraction == 0.45


def test_a_session_that_can_not_be_created_fails_the_load_with_tensorflows_text(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first session of a process initialises its GPU, which fails without memory."""
    from tensorflow.python.client import session
    from tensorflow.python.framework.errors_impl import InternalError

    text = "failed initializing StreamExecutor for device ordinal 0: CUDA_ERROR_OUT_OF_MEMORY: out of memory"

    def fail(**_: object) -> None:
        raise InternalError(None, None, text)

    monkeypatch.setattr(session, "Session", fail)
    monkeypatch.setattr(process, "find_gpus", lambda: (FoundGpu("NVIDIA H200", (9, 0)),))
    with pytest.raises(RequestError) as raised:
        serving(models).load("scale", 1, models / "scale/1")
    assert (raised.value.code, raised.value.text) == (Code.INTERNAL, text)
    assert "of the memory of GPU 0 (NVIDIA H200) are used" in raised.value.explanation
