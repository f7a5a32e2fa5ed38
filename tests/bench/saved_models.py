"""The models that the benchmarks serve: they need no training, only the size of real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tfserving.foundation.tensors import Array

# What a row of each model's input is.
SHAPES: dict[str, tuple[int, ...]] = {"tiny": (32,), "image": (224, 224, 3), "cnn": (72, 72, 3), "wide": (2048,)}


@dataclass(frozen=True)
class Model:
    """A model under `base`/1, a row that is sent to it, and what TensorFlow returns for that row in process."""

    name: str
    base: Path
    values: Array
    expected: Array

    @property
    def version(self) -> Path:
        """The folder of its SavedModel."""
        return self.base / "1"


def save(folder: Path, name: str) -> Model:
    """Saves version 1 of the model `name` under `folder`, with one float32 input `x` and one output `y`.

    `tiny` is an MLP 32→64→10, `image` the mean of each channel, `cnn` three convolutions, and `wide` an MLP of three
    layers of 2048: 50 MB of weights that every run reads.
    """
    import tensorflow as tf

    def weights(*shape: int) -> Any:
        return tf.Variable(tf.random.stateless_normal(shape, (len(shape), shape[0])) * 0.1)

    def mlp(module: Any, sizes: Sequence[int]) -> Callable[[Any], Any]:
        module.layers = [(weights(a, b), weights(b)) for a, b in pairwise(sizes)]

        def apply(x: Any) -> Any:
            for weight, bias in module.layers[:-1]:
                x = tf.nn.relu(tf.matmul(x, weight) + bias)
            weight, bias = module.layers[-1]
            return tf.matmul(x, weight) + bias

        return apply

    def cnn(module: Any) -> Callable[[Any], Any]:
        channels = (3, 32, 64, 64)
        module.kernels = [weights(3, 3, a, b) for a, b in pairwise(channels)]

        def apply(x: Any) -> Any:
            for kernel in module.kernels:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
            return tf.reduce_mean(x, (1, 2))

        return apply

    made: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
        "tiny": lambda module: mlp(module, (32, 64, 10)),
        "image": lambda _module: lambda x: tf.reduce_mean(x, (1, 2)),
        "cnn": cnn,
        "wide": lambda module: mlp(module, (2048, 2048, 2048, 2048)),
    }
    module = tf.Module()
    apply = made[name](module)
    spec = tf.TensorSpec((None, *SHAPES[name]), tf.float32, "x")
    function = tf.function(lambda x: {"y": apply(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder / name / "1"), {"serving_default": function})
    values = np.random.default_rng(1).random((1, *SHAPES[name]), np.float32)
    return Model(name, folder / name, values, function(values)["y"].numpy())
