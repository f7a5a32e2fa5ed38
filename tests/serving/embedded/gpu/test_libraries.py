"""Why TensorFlow can't use a GPU: its build, missing libraries, or the driver."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tfserving.foundation.gpus import Gpu
from tfserving.serving.embedded.gpu.libraries import missing_libraries, unusable

H200 = Gpu(0, "GPU-1a2b", "NVIDIA H200", None, None, driver="470.82.01")
# Of TensorFlow 2.21's wheel for x86-64 Linux.
CUDA = {"is_cuda_build": True, "cuda_version": "12.5.1", "cudnn_version": "9"}
LIBRARIES = {
    "libcudart.so.12": "cuda_runtime",
    "libcublas.so.12": "cublas",
    "libcublasLt.so.12": "cublas",
    "libcufft.so.11": "cufft",
    "libcusolver.so.11": "cusolver",
    "libcusparse.so.12": "cusparse",
    "libcudnn.so.9": "cudnn",
}


def install(folder: Path, *names: str) -> None:
    """Puts libraries where the wheels of `tensorflow[and-cuda]` have them; any library loads."""
    loaded = Path("/proc/self/maps").read_text().splitlines()
    for name in names:
        path = folder / "nvidia" / LIBRARIES[name] / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(next(line.split()[-1] for line in loaded if "/libc.so" in line))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how TensorFlow is built."""
    from tensorflow.python.platform import build_info

    return lambda build: monkeypatch.setattr(build_info, "build_info", build)


def test_a_build_without_cuda_names_the_package(built: Any) -> None:
    built({"is_cuda_build": False})
    text = unusable([H200])
    assert text.startswith("the driver lists NVIDIA H200, which TensorFlow can't use: it is built without CUDA. ")
    assert "Uninstall tensorflow-cpu, and run `pip install 'tensorflow[and-cuda]==" in text


def test_missing_libraries_are_named(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(CUDA)
    assert missing_libraries(CUDA) == list(LIBRARIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, *(name for name in LIBRARIES if "cudnn" not in name))
    assert missing_libraries(CUDA) == ["libcudnn.so.9"]
    assert "can't use: libcudnn.so.9 can't be loaded. Run `pip install 'tensorflow[and-cuda]==" in unusable([H200])


def test_a_driver_may_be_too_old(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(CUDA)
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, *LIBRARIES)
    assert "driver 470.82.01 may be older than CUDA 12.5.1 requires" in unusable([H200])


@pytest.mark.parametrize(
    ("build", "missing"), [({}, []), ({"cuda_version": "14.0", "cudnn_version": "11.2"}, ["libcudnn.so.11"])]
)
def test_of_an_unknown_build_only_the_library_that_it_names_is_checked(
    build: Mapping[str, Any], missing: list[str]
) -> None:
    assert missing_libraries(build) == missing
