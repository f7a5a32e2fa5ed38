"""A Keras model with a custom layer, activation and loss, exported from a `.keras` file.

It predicts the petal length of iris flowers from the other measurements, in scikit-learn's data. Each custom part is
registered, so that a file that uses it can be loaded wherever this module is imported. The exported version does not
need this module.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

from tfserving.export.keras_file import load_keras
from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training import CACHE, recipe_key
from tfserving.export.training_data import digest_of

SEED = 29
LARGEST_ERROR = 0.35
PACKAGE = "samples"


@keras.saving.register_keras_serializable(PACKAGE)
class Standardize(keras.layers.Layer):  # type: ignore[misc]
    """Subtracts `mean` and divides by `scale`, one number for each column. Both are configuration, not weights."""

    def __init__(self, mean: list[float], scale: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.scale = scale

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """Standardize `values`, float32 (batch, columns)."""
        return (values - tf.constant(self.mean)) / tf.constant(self.scale)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`. A layer without this method can't be loaded from a file."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


@keras.saving.register_keras_serializable(PACKAGE)  # type: ignore[untyped-decorator]
def softsign_squared(values: tf.Tensor) -> tf.Tensor:
    """Return the square of softsign, with its sign: an activation."""
    soft = values / (1.0 + tf.abs(values))
    return soft * tf.abs(soft)


@keras.saving.register_keras_serializable(PACKAGE)
class Tukey(keras.losses.Loss):  # type: ignore[misc]
    """Tukey's biweight: errors beyond `limit` are outliers, which all count the same."""

    def __init__(self, limit: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def call(self, expected: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
        """Return the loss of each value."""
        # A column minus a row would be a matrix of differences.
        apart = tf.reshape(expected, tf.shape(predicted)) - predicted
        share = tf.clip_by_value(tf.abs(apart) / self.limit, 0.0, 1.0)
        return self.limit**2 / 6 * (1 - (1 - share**2) ** 3)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of `__init__`."""
        return {**super().get_config(), "limit": self.limit}


def build() -> Servable:
    """Load the model from its `.keras` file, or train it and save the file, and declare its signature.

    Input: `measures` float32 (None, 3): sepal length, sepal width and petal width in cm. Output: `petal_length` float32
    (None,) in cm. Raises ValueError when the mean error for the test flowers exceeds 0.35 cm.
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
    if error > LARGEST_ERROR:
        raise ValueError(f"the mean error is {error:.2f} cm, expected at most {LARGEST_ERROR} cm")
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(predict, {"measures": TensorSpec("float32", (None, 3))}, ("petal_length",))
        },
        examples={"serving_default": {"measures": measures[100:]}},
        metrics={"test_error_cm": Metric(error, higher_is_better=False)},
        training_data={"iris.csv of scikit-learn": digest_of(files("sklearn.datasets") / "data/iris.csv")},
    )


def train(file: Path, measures: np.ndarray, lengths: np.ndarray) -> None:
    """Train the model and save it as a `.keras` file."""
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
    # The file is complete before it gets its name.
    partial = file.with_name(f"partial-{file.name}")
    model.save(partial)
    partial.replace(file)
