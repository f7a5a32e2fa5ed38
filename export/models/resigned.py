"""Gives an existing SavedModel better signatures, without its source.

The SavedModel is like many that `tf.saved_model.save(model)` writes after a call with 32 rows: the input is `features`,
the output is `output_0`, the batch is fixed at 32, and every request must contain a temperature.
"""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer

from tfserving.export.existing import load_existing
from tfserving.export.servable import Evaluation, Metric, Servable, Signature, TensorSpec
from tfserving.export.training_data import digest_of

SEED = 31
ROWS = 32
LOWEST_ACCURACY = 0.9
MEASUREMENTS = 30


def build() -> Servable:
    """Load the SavedModel and declare signatures with better names, for any batch, with a fixed temperature.

    `serving_default` takes `measurements` float32 (None, 30), of breast tumours in scikit-learn's order, and returns
    `benign` float32 (None,), a probability. `logits` takes the same and returns `logit` float32 (None,). Raises
    ValueError when the test accuracy is below 90 %.
    """
    data = load_breast_cancer()
    shuffled = np.random.default_rng(SEED).permutation(len(data.target))
    measurements, benign = data.data[shuffled].astype(np.float32), data.target[shuffled]
    with tempfile.TemporaryDirectory() as folder:
        write_as_found(Path(folder) / "found", measurements[:400], benign[:400])
        found = load_existing(Path(folder) / "found", any_batch=True)
    model = found.functions["serving_default"]

    @tf.function  # type: ignore[untyped-decorator]
    def logit(measurements: tf.Tensor) -> tf.Tensor:
        return model(features=measurements, temperature=tf.constant(1.0))["output_0"][:, 0]

    @tf.function  # type: ignore[untyped-decorator]
    def probability(measurements: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"benign": tf.sigmoid(logit(measurements))}

    inputs = {"measurements": TensorSpec("float32", (None, MEASUREMENTS))}
    tested = measurements[400:]
    accuracy = float(np.mean((logit(tf.constant(tested)).numpy() > 0) == benign[400:]))
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(f"the test accuracy is {accuracy:.1%}, expected at least {LOWEST_ACCURACY:.0%}")
    return Servable(
        module=found.module,
        signatures={
            "serving_default": Signature(probability, inputs, ("benign",)),
            "logits": Signature(lambda measurements: {"logit": logit(measurements)}, inputs, ("logit",)),
        },
        examples={"serving_default": {"measurements": tested}, "logits": {"measurements": tested}},
        metrics={"test_accuracy": Metric(accuracy, rows=len(tested))},
        evaluation=Evaluation({"measurements": tested}, benign[400:], metric="auc"),
        training_data={
            "breast_cancer.csv of scikit-learn": digest_of(files("sklearn.datasets") / "data/breast_cancer.csv")
        },
    )


def write_as_found(folder: Path, measurements: np.ndarray, benign: np.ndarray) -> None:
    """Train a logistic regression and save it without regard to serving."""
    keras.utils.set_random_seed(SEED)
    scale = 1 / measurements.std(axis=0)
    standardize = keras.layers.Rescaling(scale.tolist(), (-measurements.mean(axis=0) * scale).tolist())
    model = keras.Sequential([keras.Input((MEASUREMENTS,)), standardize, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(measurements, benign, batch_size=ROWS, epochs=30, verbose=0)
    module = tf.Module()
    module.values = [variable.value for variable in model.variables]

    @tf.function  # type: ignore[untyped-decorator]
    def call(features: tf.Tensor, temperature: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"output_0": model(features, training=False) / temperature}

    shapes = (tf.TensorSpec((ROWS, MEASUREMENTS), name="features"), tf.TensorSpec((), name="temperature"))
    tf.saved_model.save(module, str(folder), signatures=call.get_concrete_function(*shapes))
