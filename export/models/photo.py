"""Classifies pieces of two photographs: JPEG files are decoded and resized in the graph.

The photos are scikit-learn's, of a Chinese palace and of a flower. Pieces of their left halves are for training, pieces
of the right halves for the test.
"""

from __future__ import annotations

import sys
from importlib.resources import files

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training import recipe_key, trained_weights
from tfserving.export.training_data import digest_of
from tfserving.foundation.tensors import Array

SEED = 13
SIDE = 32
NAMES = ("china", "flower")
PIECES, TESTS = 400, 64
LOWEST_ACCURACY = 0.85


def build() -> Servable:
    """Train the model, or load its weights from the cache, and declare its signature.

    Input: `jpeg` string (None,), the bytes of JPEG files of any size. Outputs: `scores` float32 (None, 2), which add up
    to 1, and `label` string (None,), "china" or "flower". Raises ValueError when the test accuracy is below 85 %.
    """
    folder = files("sklearn.datasets") / "images"
    photos = [tf.io.decode_jpeg((folder / f"{name}.jpg").read_bytes()).numpy() for name in NAMES]
    half = photos[0].shape[1] // 2
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(NAMES), activation="softmax"),
        ]
    )

    def fit() -> list[Array]:
        pieces, labels = _pieces([photo[:, :half] for photo in photos], PIECES, SEED)
        model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
        model.fit(_decode(tf.constant(pieces)), labels, batch_size=32, epochs=25, verbose=0)
        return model.get_weights()  # type: ignore[no-any-return]

    key = recipe_key(sys.modules[__name__], ("keras", "numpy", "scikit-learn", "tensorflow"))
    model.set_weights(trained_weights(key, fit))
    names = tf.constant(NAMES)

    @tf.function  # type: ignore[untyped-decorator]
    def classify(jpeg: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = model(_decode(jpeg), training=False)
        return {"scores": scores, "label": tf.gather(names, tf.argmax(scores, axis=1))}

    tested, labels = _pieces([photo[:, half:] for photo in photos], TESTS, SEED + 1)
    accuracy = float(np.mean(tf.argmax(classify(tf.constant(tested))["scores"], axis=1).numpy() == labels))
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(f"the test accuracy is {accuracy:.1%}, expected at least {LOWEST_ACCURACY:.0%}")
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(classify, {"jpeg": TensorSpec("string", (None,))}, ("scores", "label"))
        },
        examples={"serving_default": {"jpeg": tested}},
        metrics={"test_accuracy": Metric(accuracy, rows=TESTS)},
        training_data={f"{name}.jpg of scikit-learn": digest_of(folder / f"{name}.jpg") for name in NAMES},
    )


def _decode(jpeg: tf.Tensor) -> tf.Tensor:
    """Return JPEG files as pixels from 0 to 255: float32 (files, 32, 32, 3)."""

    def one(file: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(tf.io.decode_jpeg(file, channels=3), (SIDE, SIDE), antialias=True)

    return tf.map_fn(one, jpeg, fn_output_signature=tf.TensorSpec((SIDE, SIDE, 3), tf.float32))


def _pieces(photos: list[Array], number: int, seed: int) -> tuple[Array, Array]:
    """Return JPEG files of pieces of `photos`, 60 to 140 pixels wide and high, and the numbers of their photos."""
    random = np.random.default_rng(seed)
    pieces, labels = np.empty(number, np.object_), np.arange(number) % len(photos)
    for piece, label in enumerate(labels):
        photo = photos[label]
        height, width = random.integers(60, 140, 2)
        top, left = random.integers(photo.shape[0] - height), random.integers(photo.shape[1] - width)
        pieces[piece] = tf.io.encode_jpeg(photo[top : top + height, left : left + width], quality=85).numpy()
    return pieces, labels
