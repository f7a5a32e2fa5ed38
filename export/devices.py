"""The device on which golden outputs are computed, and the environment of the processes that compute them.

On NVIDIA GPUs of the Ampere generation and later, TensorFlow rounds the factors of float32 products to TF32 by default.
On an H200, 7 of 10 sample models then failed their verification, and all passed without TF32. So golden outputs are
computed without it, on every machine and whatever a builder sets.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tfserving.foundation.devices import Device
from tfserving.foundation.gpus import AUTOTUNE, GROWTH, TF32_OVERRIDE, VISIBLE

# A function that XLA compiled while a builder had TF32 turned on obeys it, too, where it calls NVIDIA's libraries.
_ALWAYS = {TF32_OVERRIDE: "0"}
# An export has two processes, which share the memory. ResNet50 differed by 1.4e-4 between two processes on an H200 that
# measured cuDNN's algorithms, and not at all when these were chosen by rule.
_UNLESS_SET = {GROWTH: "true", AUTOTUNE: "0"}

# Variables of a process; None removes one.
Environment = Mapping[str, str | None]


@dataclass(frozen=True)
class Measurement:
    """A kind of device for which tolerances are measured: in a process with `environment`, on the device `name`."""

    device: Device
    name: str
    environment: Environment = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """Where an export runs.

    `device` is the kind of device of its processes, `golden` the name of the device that computes golden outputs: `cpu`
    or a GPU. `measurements` are the kinds of device that this machine has.
    """

    device: Device = "cpu"
    golden: str = "cpu"
    measurements: tuple[Measurement, ...] = ()


def proof_environment(own: Mapping[str, str], changes: Environment = MappingProxyType({})) -> dict[str, str]:
    """Return the environment of a process that runs golden requests, made of the exporter's `own`, with `changes`."""
    merged: dict[str, str | None] = {**_UNLESS_SET, **own, **_ALWAYS, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def prepare_environment() -> None:
    """Set the environment of this process, before it imports TensorFlow."""
    os.environ.update(proof_environment(os.environ))


def turn_tf32_off() -> None:
    """Make this process, which has imported TensorFlow, compute float32 as such."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


def this_machine() -> Machine:
    """Return where this process, which has imported TensorFlow, runs."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Machine()
    name = str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
    # A builder may have hidden the GPUs from this process. The fresh process has them all the same.
    golden = name if tf.config.get_visible_devices("GPU") else "cpu"
    return Machine("gpu", golden, measurements(name))


def measurements(gpu: str) -> tuple[Measurement, ...]:
    """Return the kinds of device that a machine with the GPU called `gpu` has.

    A server's GPU picks its algorithms by measuring, so its process does that, too.
    """
    return (
        Measurement("cpu", platform.machine(), {VISIBLE: "-1"}),
        Measurement("gpu", gpu, {AUTOTUNE: "1"}),
        Measurement("gpu-tf32", gpu, {AUTOTUNE: "1", TF32_OVERRIDE: None}),
    )
