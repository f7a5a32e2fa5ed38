"""Why TensorFlow can't use a GPU that the driver lists."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tfserving.foundation.gpus import Gpu

# The libraries that TensorFlow loads, by the version of CUDA that it is built for. It uses no GPU if one is missing.
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/third_party/xla/xla/tsl/platform/default/dso_loader.cc
_OF_CUDA = {
    "12": ("cudart.so.12", "cublas.so.12", "cublasLt.so.12", "cufft.so.11", "cusolver.so.11", "cusparse.so.12"),
}


def unusable(listed: Sequence[Gpu]) -> str:
    """Returns a warning about GPUs that the driver lists and TensorFlow has not found: the reason, and what to do."""
    from tensorflow.python.platform.build_info import build_info

    names = ", ".join(sorted({gpu.name for gpu in listed}))
    return f"the driver lists {names}, which TensorFlow can't use: {_reason(build_info, listed[0].driver)}"


def _reason(build: Mapping[str, Any], driver: str) -> str:
    install = f"`pip install 'tensorflow[and-cuda]=={_installed()}'`"
    if not build.get("is_cuda_build"):
        return f"it is built without CUDA. Uninstall tensorflow-cpu, and run {install}"
    if missing := missing_libraries(build):
        return f"{', '.join(missing)} can't be loaded. Run {install}"
    cuda = f"CUDA {build.get('cuda_version', '')}".strip()
    return (
        f"driver {driver or 'of unknown version'} may be older than {cuda} requires. TensorFlow's own messages are in "
        "the output of `python -c 'import tensorflow as tf; tf.config.list_physical_devices()'`"
    )


def missing_libraries(build: Mapping[str, Any]) -> list[str]:
    """Returns the libraries that a TensorFlow of this build requires, and that can't be loaded."""
    major = str(build.get("cuda_version", "")).partition(".")[0]
    wanted = [*_OF_CUDA.get(major, ()), f"cudnn.so.{str(build.get('cudnn_version', '')).partition('.')[0]}"]
    return [f"lib{name}" for name in wanted if not _loads(f"lib{name}")]


def _loads(name: str) -> bool:
    # The wheels of `and-cuda` have a folder for each library, and TensorFlow looks there, too.
    places = [str(found) for path in sys.path if path for found in Path(path).glob(f"nvidia/*/lib/{name}")]
    for place in (name, *places):
        try:
            ctypes.CDLL(place)
        except OSError:
            continue
        return True
    return False


def _installed() -> str:
    for package in ("tensorflow-cpu", "tensorflow"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
