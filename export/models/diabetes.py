"""Predicts the progression of diabetes within a year: scikit-learn's data, 442 patients and 10 measurements.

It has signatures to regress and to classify tf.Examples, or both at once (MultiInference), and to predict from arrays.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from tfserving.export.examples import serialized_examples
from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training_data import digest_of

SEED = 5
LOWEST_R2 = 0.4
# Ridge regression's penalty: the measurements are correlated.
PENALTY = 0.1


def build() -> Servable:
    """Fit a ridge regression in closed form, and declare its signatures.

    `serving_default` regresses tf.Examples with one float feature for each measurement. `speed` classifies them as
    "slower" or "faster" than half of the patients, with a score from 0 to 1 for each. `predict` takes `measurements`
    float32 (None, 10), in scikit-learn's order, and returns `progression` float32 (None,). Raises ValueError when it
    explains less than 40 % of the test patients' variance.
    """
    data = load_diabetes()
    names = [str(name) for name in data.feature_names]
    train, test, train_targets, test_targets = train_test_split(
        data.data, data.target, test_size=0.25, random_state=SEED
    )
    mean = train_targets.mean()
    weights = np.linalg.solve(train.T @ train + PENALTY * np.eye(len(names)), train.T @ (train_targets - mean))
    module = tf.Module()
    module.weights = tf.Variable(weights.astype(np.float32))
    module.bias = tf.Variable(np.float32(mean))

    def progression(measurements: tf.Tensor) -> tf.Tensor:
        # A sum for each row: the order of sums in a matrix product can depend on the batch.
        return tf.reduce_sum(measurements * module.weights, axis=1) + module.bias

    middle, spread = np.float32(np.median(train_targets)), np.float32(train_targets.std())
    features = {name: tf.io.FixedLenFeature([], tf.float32) for name in names}

    def parsed(inputs: tf.Tensor) -> tf.Tensor:
        values = tf.io.parse_example(inputs, features)
        return tf.stack([values[name] for name in names], axis=1)

    @tf.function  # type: ignore[untyped-decorator]
    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": progression(parsed(inputs))}

    @tf.function  # type: ignore[untyped-decorator]
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        faster = tf.sigmoid((progression(parsed(inputs)) - middle) / spread)
        classes = tf.tile([["slower", "faster"]], [tf.shape(faster)[0], 1])
        return {"classes": classes, "scores": tf.stack([1 - faster, faster], axis=1)}

    test = test.astype(np.float32)
    residuals = progression(tf.constant(test)).numpy() - test_targets
    r2 = float(1 - np.sum(residuals**2) / np.sum((test_targets - test_targets.mean()) ** 2))
    if r2 < LOWEST_R2:
        raise ValueError(f"it explains {r2:.1%} of the test patients' variance, expected at least {LOWEST_R2:.0%}")
    examples = serialized_examples([dict(zip(names, row, strict=True)) for row in test])
    return Servable(
        module=module,
        signatures={
            "serving_default": Signature(
                regress, {"inputs": TensorSpec("string", (None,))}, ("outputs",), method="regress"
            ),
            "speed": Signature(
                classify, {"inputs": TensorSpec("string", (None,))}, ("classes", "scores"), method="classify"
            ),
            "predict": Signature(
                lambda measurements: {"progression": progression(measurements)},
                {"measurements": TensorSpec("float32", (None, len(names)))},
                ("progression",),
            ),
        },
        examples={
            "serving_default": {"inputs": examples},
            "speed": {"inputs": examples},
            "predict": {"measurements": test},
        },
        metrics={"test_r2": Metric(r2)},
        training_data={
            f"{name} of scikit-learn": digest_of(files("sklearn.datasets") / "data" / name)
            for name in ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz")
        },
    )
