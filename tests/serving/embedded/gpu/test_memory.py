"""A GPU without free memory: which texts of TensorFlow mean that, and what is reported in their place."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.driver import Driver
from tests.serving.embedded.running import wait_until
from tfserving.foundation.gpus import visible_gpus
from tfserving.serving.embedded.core.session_call import translate
from tfserving.serving.embedded.errors import Code, RequestError, StartError
from tfserving.serving.embedded.gpu import memory
from tfserving.serving.embedded.gpu.memory import GpuMemory, check_free, use_gpus

# As TensorFlow 2.21 prints them. Most are in its library; the names of CUDA's errors come from the driver.
LACKS = [
    "No Blas support for stream\n\t [[{{node dense/MatMul}}]]",
    "failed to create cublas handle: the resource allocation failed",
    "Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED",
    "There was an error before creating cudnn handle (2): cudaGetErrorName symbol not found.",
    "DNN library initialization failed. Look at the errors above for more details.",
    "CUDA error: Failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "OOM when allocating tensor with shape[32,64,112,112] and type float on "
    "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
    "Out of memory while trying to allocate 2147483648 bytes.",
]
OTHERS = [
    "OOM when allocating tensor with shape[9] and type float on /job:localhost/replica:0/task:0/device:CPU:0 by "
    "allocator cpu",
    "Matrix size-incompatible: In[0]: [1,3], In[1]: [4,5]",
    "",
]
FULL = "0, GPU-1a2b, NVIDIA H200, 143771, 143500, 580.95.05, 9.0"
HALF = "0, GPU-1a2b, NVIDIA H200, 143771, 71885, 580.95.05, 9.0"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(memory, "gpu_memory", GpuMemory())
    return Driver(tmp_path)


@pytest.mark.parametrize("text", LACKS)
def test_texts_about_a_lack_of_memory_are_recognised(text: str) -> None:
    assert GpuMemory([0]).lacks(text)
    # Without a GPU they are about something else.
    assert not GpuMemory().lacks(text)


@pytest.mark.parametrize("text", OTHERS)
def test_other_texts_are_left_alone(text: str) -> None:
    assert not GpuMemory([0]).lacks(text)
    error = RequestError(Code.INTERNAL, text, "as it was")
    assert GpuMemory([0]).explained(error) is error
    assert GpuMemory([0]).hint(text) == ""


def test_a_load_that_fails_names_who_has_the_memory(driver: Driver) -> None:
    driver.lists(FULL, processes=("GPU-1a2b, 4242, /usr/bin/python3, 141000", "GPU-9999, 1, other, 1"))
    error = GpuMemory([0]).explained(RequestError(Code.INTERNAL, LACKS[0]))
    assert (error.code, error.text) == (Code.INTERNAL, LACKS[0])
    assert error.explanation == (
        "the memory of GPU 0 (NVIDIA H200) is taken: 140.1 of 140.4 GiB (by python3, process 4242: 137.7 GiB)"
    )


def test_many_processes_are_named_by_size_and_counted(driver: Driver) -> None:
    listed = [f"GPU-1a2b, {pid}, python{pid}, {pid * 1024}" for pid in (1, 5, 3, 2, 4)]
    driver.lists(FULL, processes=(*listed, f"GPU-1a2b, {os.getpid()}, python3, 9216"))
    assert (
        GpuMemory([0])
        .describe()
        .endswith("(by this process: 9.0 GiB, python5, process 5: 5.0 GiB, python4, process 4: 4.0 GiB and 3 more)")
    )


def test_in_a_container_the_driver_lists_no_processes(driver: Driver) -> None:
    driver.lists(FULL)
    assert "the driver lists no process, as in a container: run nvidia-smi on the host" in GpuMemory([0]).describe()


def test_memory_that_is_free_is_not_called_taken(driver: Driver) -> None:
    driver.lists(HALF, processes=("GPU-1a2b, 7, python3, 71000",))
    assert GpuMemory([0]).describe() == (
        "70.2 of 140.4 GiB of the memory of GPU 0 (NVIDIA H200) are used (by python3, process 7: 69.3 GiB)"
    )


def test_a_driver_that_reports_no_sizes_or_nothing(driver: Driver) -> None:
    assert GpuMemory([0]).describe().startswith("the GPU's memory is probably taken")
    driver.lists("0, GPU-1a2b, NVIDIA H100, [N/A], [N/A], 580.95.05, 9.0", processes=("GPU-1a2b, 7, python3, [N/A]",))
    assert GpuMemory([0]).describe() == (
        "the memory of GPU 0 (NVIDIA H100) is probably taken (by python3, process 7); the driver doesn't report its "
        "size"
    )


def test_a_request_that_fails_is_explained_without_names_which_are_in_the_log(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorflow.python.framework.errors_impl import ResourceExhaustedError

    driver.lists(FULL, processes=("GPU-1a2b, 4242, python3, 141000",))
    use_gpus([0])
    with caplog.at_level(logging.WARNING):
        errors = [translate(ResourceExhaustedError(None, None, LACKS[6])) for _ in range(3)]
        wait_until("the line in the log", lambda: bool(caplog.records))
    for error in errors:
        assert (error.code, error.text) == (Code.RESOURCE_EXHAUSTED, LACKS[6])
        assert error.explanation == "the GPU has too little free memory for this request. Send fewer rows at a time"
    # Once a minute, however many fail.
    (record,) = caplog.records
    assert "process 4242" in record.getMessage()


def test_a_start_without_free_memory_fails_before_anything_loads(driver: Driver) -> None:
    driver.lists(FULL, processes=("GPU-1a2b, 4242, python3, 141000",))
    with pytest.raises(StartError, match=r"GPU 0 \(NVIDIA H200\) is taken: .* process 4242") as raised:
        check_free(visible_gpus())
    assert "choose another GPU with CUDA_VISIBLE_DEVICES" in str(raised.value)


@pytest.mark.parametrize("gpu", [HALF, "0, GPU-1a2b, NVIDIA H100, [N/A], [N/A], 580.95.05, 9.0"])
def test_a_start_with_memory_or_without_knowing_it_goes_on(driver: Driver, gpu: str) -> None:
    driver.lists(gpu)
    check_free(visible_gpus())
