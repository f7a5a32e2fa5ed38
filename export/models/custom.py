"""A Keras model with a layer, an activation and a loss of its own: `.keras` file in, SavedModel out.

It learns how much petals grow with the other measures of iris flowers, from scikit-learn's data. Each part that Keras
doesn't have is registered, so that a file that uses it can be loaded wherever this module was imported; the exported
version needs nothing of this module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

from tfserving.export.keras_file import load_keras
from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training import CACHE, recipe_key

SEED = 29
WANTED_ERROR = 0.35
PACKAGE = "samples"


@keras.saving.register_keras_serializable(PACKAGE)
class Standardize(keras.layers.Layer):  # type: ignore[misc]
    """Subtracts `mean` and divides by `scale`, numbers for each column: what can't be learned is configuration."""

    def __init__(self, mean: list[float], scale: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.scale = scale

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """Float32 (batch, columns) in and out."""
        return (values - tf.constant(self.mean)) / tf.constant(self.scale)

    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes; a layer without it can't be loaded from a file."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


@keras.saving.register_keras_serializable(PACKAGE)  # type: ignore[untyped-decorator]
def softsign_squared(values: tf.Tensor) -> tf.Tensor:
    """An activation: the square of softsign, with its sign."""
    soft = values / (1.0 + tf.abs(values))
    return soft * tf.abs(soft)


@keras.saving.register_keras_serializable(PACKAGE)
class Tukey(keras.losses.Loss):  # type: ignore[misc]
    """Tukey's biweight: errors beyond `limit` are outliers, and count the same however large."""

    def __init__(self, limit: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def call(self, wanted: tf.Tensor, answered: tf.Tensor) -> tf.Tensor:
        """The loss of each value."""
        # A column and a row would make a square of differences.
        apart = tf.reshape(wanted, tf.shape(answered)) - answered
        share = tf.clip_by_value(tf.abs(apart) / self.limit, 0.0, 1.0)
        return self.limit**2 / 6 * (1 - (1 - share**2) ** 3)

    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {**super().get_config(), "limit": self.limit}


def build() -> Servable:
    """Loads the model from its `.keras` file, having trained it when there is none, and declares its signature.

    `measures` float32 (None, 3), sepal length, sepal width and petal width in cm, in; `petal_length` float32 (None,),
    cm, out. Raises ValueError when it is more than 0.35 cm off for the test flowers.
    """
    data = load_iris().data.astype(np.float32)[np.random.default_rng(SEED).permutation(150)]
    measures, lengths = data[:, [0, 1, 3]], data[:, 2]
    file = CACHE / f"{recipe_key(sys.modules[__name__], ('keras', 'numpy', 'scikit-learn', 'tensorflow'))}.keras"
    if not file.exists():
        train(file, measures[:100], lengths[:100])
    model = load_keras(file)

    @tf.function  # type: ignore[untyped-decorator]
    def predict(measures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"petal_length": model(measures, training=False)[:, 0]}

    error = float(np.mean(np.abs(predict(tf.constant(measures[100:]))["petal_length"].numpy() - lengths[100:])))
    if error > WANTED_ERROR:
        raise ValueError(f"it is {error:.2f} cm off, at most {WANTED_ERROR} cm are wanted")
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(predict, {"measures": TensorSpec("float32", (None, 3))}, ("petal_length",))
        },
        examples={"serving_default": {"measures": measures[100:]}},
        metrics={"test_error_cm": Metric(error, higher_is_better=False)},
    )


def train(file: Path, measures: np.ndarray, lengths: np.ndarray) -> None:
    """Trains the model and saves it as a `.keras` file."""
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            Standardize(measures.mean(axis=0).tolist(), measures.std(axis=0).tolist()),
            keras.layers.Dense(16, activation=softsign_squared),
            keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(float(lengths.mean()))),
        ]
    )
    model.compile(keras.optimizers.Adam(0.03), Tukey())
    model.fit(measures, lengths, batch_size=20, epochs=150, verbose=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Written beside it: a file that is there is a whole one.
    partial = file.with_name(f"partial-{file.name}")
    model.save(partial)
    partial.replace(file)
