"""The environment of a server on GPUs: which of them it uses, and how exactly and how repeatably they compute.

| variable | read by | set for |
| --- | --- | --- |
| NVIDIA_TF32_OVERRIDE=0 | cuBLAS and cuDNN: never use TF32, whatever the program sets | `tf32: false` |
| TF_CUDNN_USE_AUTOTUNE=0 | TensorFlow: choose cuDNN's algorithms by rule | `deterministic: true` |
| TF_FORCE_GPU_ALLOW_GROWTH=true | TensorFlow: allocate memory when it is needed | `gpu_memory_growth: true` |
| CUDA_VISIBLE_DEVICES | CUDA: the GPUs of a process | `gpus`, for a server that is a process |

The first three are for TensorFlow Serving, which has no flags for them. Its --platform_config_file could set the
growth, but with this file it ignores its flags for batching, warm-up and sessions (`server.cc` of
https://github.com/tensorflow/serving). The embedded server has the flags --enable_tf32, --enable_deterministic_gpu and
--gpu_memory_growth.

https://docs.nvidia.com/deeplearning/frameworks/tensorflow-user-guide/index.html
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/gpu/gpu_bfc_allocator.cc
https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tfserving.foundation.gpus import AUTOTUNE, GROWTH, TF32_OVERRIDE, VISIBLE, Gpu, all_gpus, visible_gpus

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.server import ServerSettings

# The names of parts of a GPU, which the driver's list of GPUs lacks.
_MIG = "MIG-"


class GpuError(Exception):
    """`server.gpus` names GPUs that this machine lacks."""


def gpu_environment(server: ServerSettings, *, embedded: bool) -> dict[str, str]:
    """Return the variables that a server needs for `tf32`, `deterministic` and `gpu_memory_growth` of models.yaml.

    None for the embedded server, which has flags for them. Without a GPU they have no effect.
    """
    if embedded:
        return {}
    wanted = (
        (TF32_OVERRIDE, "0", not server.tf32),
        (AUTOTUNE, "0", server.deterministic),
        (GROWTH, "true", server.gpu_memory_growth),
    )
    return {name: value for name, value, needed in wanted if needed}


def process_environment(server: ServerSettings, given: Mapping[str, str], *, embedded: bool) -> dict[str, str]:
    """Return the environment of a server that is a process: `given`, changed by the settings of models.yaml.

    A setting replaces a variable that is set by hand. The exceptions are settings that leave something to TensorFlow:
    without `deterministic` and `gpu_memory_growth`, TF_CUDNN_USE_AUTOTUNE and TF_FORCE_GPU_ALLOW_GROWTH stay. Raises
    GpuError when `server.gpus` names GPUs that this machine lacks.
    """
    # 0 would turn TF32 off in spite of `tf32: true`. NVIDIA reserves other values.
    decided = {TF32_OVERRIDE}
    if server.deterministic:
        decided.add(AUTOTUNE)
    if server.gpu_memory_growth is not None:
        decided.add(GROWTH)
    kept = {name: value for name, value in given.items() if name not in decided}
    return {**kept, **gpu_environment(server, embedded=embedded), **visible_devices(server)}


def visible_devices(server: ServerSettings) -> dict[str, str]:
    """Return CUDA_VISIBLE_DEVICES for `server.gpus`; nothing where all visible GPUs are used.

    A number selects the first ones that are visible to this process, a list selects among the GPUs of this machine. The
    value has UUIDs: CUDA's numbers may differ from those of `nvidia-smi`. Raises GpuError when this machine lacks them.
    """
    gpus = server.gpus
    if gpus is None:
        return {}
    if isinstance(gpus, tuple):
        return {VISIBLE: ",".join(_named(gpus))}
    parts = [name for name in map(str.strip, os.environ.get(VISIBLE, "").split(",")) if name.startswith(_MIG)]
    whole = () if parts else visible_gpus()
    visible, wanted = parts or [gpu.uuid for gpu in whole], 1 if gpus == "all" else gpus
    if len(visible) < wanted:
        some = f"{wanted} visible GPUs" if wanted > 1 else "a visible GPU"
        raise GpuError(f"got {gpus}, expected {some}. {_listed(whole) if not parts else f'{VISIBLE} has {parts}'}")
    return {} if gpus == "all" else {VISIBLE: ",".join(visible[:wanted])}


def _named(names: Iterable[str]) -> list[str]:
    gpus, found = all_gpus(), []
    for name in names:
        uuids = [gpu.uuid for gpu in gpus if name in (str(gpu.index), gpu.uuid)]
        if not uuids and not name.startswith(_MIG):
            raise GpuError(f"this machine has no GPU {name!r}. {_listed(gpus)}")
        found += uuids or [name]
    return found


def _listed(gpus: tuple[Gpu, ...]) -> str:
    """Return which GPUs there are, and what to do."""
    if not gpus:
        return (
            f"nvidia-smi lists none here. Install NVIDIA's driver, check {VISIBLE}, or remove server.gpus to serve on "
            "the CPU"
        )
    listed = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in gpus)
    return f"Here are {listed}. Name some of these, or set a number of GPUs"
