"""The kinds of device that a model runs on, by how exactly they compute float32.

| kind | float32 |
| --- | --- |
| `cpu` | A processor, or a GPU's host. |
| `gpu` | An NVIDIA GPU that computes float32 as such. |
| `gpu-tf32` | An NVIDIA GPU (Ampere and later) that rounds the factors of products to TF32's 10 bits of mantissa. |

TensorFlow's default on such a GPU is TF32: https://www.tensorflow.org/api_docs/python/tf/config/experimental/enable_tensor_float_32_execution
"""

from __future__ import annotations

from typing import Literal, get_args

Device = Literal["cpu", "gpu", "gpu-tf32"]
DEVICES: tuple[Device, ...] = get_args(Device)
# A header of HTTP responses and a key of gRPC's initial metadata, in which a server names its kind of device.
DEVICE_HEADER = "tfserving-device"


def device_kind(*, gpu: bool, tf32: bool) -> Device:
    """Return the kind of device of a server with or without a GPU, and with TF32 on or off."""
    if not gpu:
        return "cpu"
    return "gpu-tf32" if tf32 else "gpu"
