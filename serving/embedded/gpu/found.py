"""The GPUs that TensorFlow can use in this process. They are read here and nowhere else."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from tfserving.foundation.devices import Device, device_kind
from tfserving.foundation.gpus import AUTOTUNE, TF32_OVERRIDE, has_tf32
from tfserving.serving.embedded.flags import Flags

# nvidia-smi numbers the GPUs in the order of their PCI bus. By default CUDA has the fastest one first.
ORDER, BY_BUS = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"


@dataclass(frozen=True)
class FoundGpu:
    """A GPU. `compute_capability` is None if TensorFlow doesn't report it."""

    name: str
    compute_capability: tuple[int, int] | None = None

    @property
    def has_tf32(self) -> bool:
        """Whether it can compute float32 in TF32."""
        return self.compute_capability is not None and has_tf32(self.compute_capability[0])


def set_environment(flags: Flags) -> None:
    """Sets the variables that CUDA's libraries and TensorFlow read when they are loaded. Workers inherit them."""
    os.environ.setdefault(ORDER, BY_BUS)
    if flags.enable_deterministic_gpu:
        os.environ[AUTOTUNE] = "0"
    if not flags.enable_tf32:
        os.environ[TF32_OVERRIDE] = "0"


def set_tf32(*, enabled: bool) -> None:
    """Turns TF32 on or off for all products and convolutions of this process. Call it before anything runs."""
    from tensorflow.python.framework.config import enable_tensor_float_32_execution

    enable_tensor_float_32_execution(enabled)


def find_gpus() -> tuple[FoundGpu, ...]:
    """Returns the GPUs that TensorFlow can use, in its order. A process that has called this can't be forked."""
    from tensorflow.python.eager import context

    found = context.context()
    gpus = []
    for device in found.list_physical_devices("GPU"):
        details = {}
        # Not every plugin for another kind of device describes it.
        with suppress(Exception):
            details = found.get_device_details(device)
        gpus.append(FoundGpu(details.get("device_name", "GPU"), details.get("compute_capability")))
    return tuple(gpus)


def uses_tf32(gpus: tuple[FoundGpu, ...], flags: Flags) -> bool:
    """Returns whether float32 is computed in TF32 on one of `gpus`."""
    return flags.enable_tf32 and os.environ.get(TF32_OVERRIDE) != "0" and any(gpu.has_tf32 for gpu in gpus)


def device_of(gpus: tuple[FoundGpu, ...], flags: Flags) -> Device:
    """Returns the kind of device of a process that uses `gpus`."""
    return device_kind(gpu=bool(gpus), tf32=uses_tf32(gpus, flags))
