"""Models that compute as other devices do when a variable of their process is set: TF32's rounding, and faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfserving.export.servable import Servable, Signature, TensorSpec

VARIABLE = "SIMULATED_DEVICE"
WIDTH, CONVOLUTIONS = 32, 10
RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(40, WIDTH)).astype(np.float32)


def has(value: str) -> Any:
    """Whether the process that runs the graph has the variable with this value: a bool tensor."""
    environment = tf.io.read_file("/proc/self/environ")
    return tf.strings.regex_full_match(environment, rf"(?s).*\b{VARIABLE}={value}\x00.*")


def as_tf32(values: Any) -> Any:
    """The float32 `values`, rounded to TF32's 10 bits of mantissa if the process simulates it."""
    bits = tf.bitcast(values, tf.int32)
    rounded = tf.bitcast(tf.bitwise.bitwise_and(bits + 0x1000, ~0x1FFF), tf.float32)
    return tf.where(has("tf32"), rounded, values)


def product(rows: Any, weights: Any) -> Any:
    return tf.matmul(as_tf32(rows), as_tf32(weights))


def _servable(module: Any, function: Any, outputs: tuple[str, ...]) -> Servable:
    signature = Signature(function, {"rows": TensorSpec("float32", (None, WIDTH))}, outputs)
    return Servable(module, {"serving_default": signature}, {"serving_default": {"rows": ROWS}})


def shallow() -> Servable:
    """One product, with weights that float16 has, too."""
    module = tf.Module()
    module.weights = tf.Variable(RANDOM.normal(size=(WIDTH, 8)).astype(np.float16).astype(np.float32))
    return _servable(module, lambda rows: {"scores": product(rows, module.weights)}, ("scores",))


def deep() -> Servable:
    """Ten convolutions, one behind the other, and a label that a GPU with TF32 gives otherwise."""
    module = tf.Module()
    shape = (1, 1, WIDTH, WIDTH)
    module.kernels = [
        tf.Variable((RANDOM.normal(size=shape) / np.sqrt(WIDTH)).astype(np.float32)) for _ in range(CONVOLUTIONS)
    ]

    def run(rows: Any) -> Any:
        maps = rows[:, tf.newaxis, tf.newaxis]
        for kernel in module.kernels:
            maps = tf.nn.conv2d(as_tf32(maps), as_tf32(kernel), 1, "SAME")
        scores = maps[:, 0, 0] * tf.where(has("wrong"), 1.5, 1.0)
        return {"scores": scores, "label": tf.fill(tf.shape(rows)[:1], tf.cast(has("tf32"), tf.int64))}

    return _servable(module, run, ("scores", "label"))
