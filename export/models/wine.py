"""Classifies wines by vineyard: scikit-learn's wine data, 178 wines from three vineyards and 13 measurements.

It has a signature to classify tf.Examples, and one to predict from arrays.
"""

from __future__ import annotations

from importlib.resources import files

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from tfserving.export.examples import serialized_examples
from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training_data import digest_of

SEED = 11
LOWEST_ACCURACY = 0.94


def build() -> Servable:
    """Train a softmax regression, in a second, and declare its signatures.

    `serving_default` classifies tf.Examples with one float feature for each measurement. `predict` takes
    `measurements` float32 (None, 13), in scikit-learn's order, and returns `scores` float32 (None, 3) and `label`
    int64 (None,). Raises ValueError when the test accuracy is below 94 %.
    """
    wine = load_wine()
    names = [name.replace("/", "_") for name in wine.feature_names]
    train, test, train_labels, test_labels = train_test_split(
        wine.data.astype(np.float32), wine.target, test_size=0.3, random_state=SEED, stratify=wine.target
    )
    keras.utils.set_random_seed(SEED)
    # A division by constants would be rounded differently on servers, which multiply by the reciprocals.
    scale = 1 / train.std(axis=0)
    standardize = keras.layers.Rescaling(scale.tolist(), (-train.mean(axis=0) * scale).tolist())
    model = keras.Sequential([keras.Input((len(names),)), standardize, keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.fit(train, train_labels, batch_size=32, epochs=40, verbose=0)
    features = {name: tf.io.FixedLenFeature([], tf.float32) for name in names}
    classes = tf.constant([str(name) for name in wine.target_names])

    @tf.function  # type: ignore[untyped-decorator]
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(inputs, features)
        scores = model(tf.stack([parsed[name] for name in names], axis=1), training=False)
        return {"classes": tf.tile(classes[tf.newaxis], [tf.shape(scores)[0], 1]), "scores": scores}

    @tf.function  # type: ignore[untyped-decorator]
    def predict(measurements: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = model(measurements, training=False)
        return {"scores": scores, "label": tf.argmax(scores, axis=1)}

    accuracy = float(np.mean(predict(tf.constant(test))["label"].numpy() == test_labels))
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(f"the test accuracy is {accuracy:.1%}, expected at least {LOWEST_ACCURACY:.0%}")
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(
                classify, {"inputs": TensorSpec("string", (None,))}, ("classes", "scores"), method="classify"
            ),
            "predict": Signature(
                predict, {"measurements": TensorSpec("float32", (None, len(names)))}, ("scores", "label")
            ),
        },
        examples={
            "serving_default": {"inputs": serialized_examples([dict(zip(names, row, strict=True)) for row in test])},
            "predict": {"measurements": test},
        },
        metrics={"test_accuracy": Metric(accuracy, rows=len(test_labels))},
        training_data={"wine_data.csv of scikit-learn": digest_of(files("sklearn.datasets") / "data/wine_data.csv")},
    )
