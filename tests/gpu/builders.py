"""The networks that `python -m tests.gpu` exports: the size of real ones, with seeded random weights, and no download.

With TFSERVING_GPU_CHECKS=tiny each is small enough for a CPU to export it in a moment: the script is tested that way.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.tensors import Array

TINY = os.environ.get("TFSERVING_GPU_CHECKS") == "tiny"
ROWS = 32
SIDE = 32 if TINY else 224
VOCABULARY, LENGTH = (64, 8) if TINY else (8192, 128)
# Of BERT-base.
WIDTH, HEADS, LAYERS = (16, 2, 1) if TINY else (768, 12, 12)


def resnet50() -> Servable:
    """ResNet50: `image` float32 (None, 224, 224, 3), values 0 to 255; `scores` float32 (None, 1000) and `label`."""
    return _classifier(_network("ResNet50"), "float32")


def resnet50_uint8() -> Servable:
    """The same network for `image` uint8: a quarter of the bytes."""
    return _classifier(_network("ResNet50"), "uint8")


def mobilenet() -> Servable:
    """MobileNetV2, with the signature of `resnet50`."""
    return _classifier(_network("MobileNetV2"), "float32")


def encoder() -> Servable:
    """A transformer encoder of BERT-base's size, for `tokens` int32 (None, 128); a smaller vocabulary."""
    keras.utils.set_random_seed(7)
    tokens = keras.Input((LENGTH,), dtype="int32")
    layers = keras.layers
    places = layers.Embedding(LENGTH, WIDTH)(keras.ops.arange(LENGTH))
    x = layers.LayerNormalization(epsilon=1e-12)(layers.Embedding(VOCABULARY, WIDTH)(tokens) + places[None])
    for _ in range(LAYERS):
        x = layers.LayerNormalization(epsilon=1e-12)(x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x))
        hidden = layers.Dense(4 * WIDTH, activation="gelu")(x)
        x = layers.LayerNormalization(epsilon=1e-12)(x + layers.Dense(WIDTH)(hidden))
    logits = layers.Dense(16)(keras.ops.mean(x, axis=1))
    model = keras.Model(tokens, {"embedding": x[:, 0], "logits": logits})

    def encode(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(tokens, training=False)
        return {**outputs, "label": tf.argmax(outputs["logits"], axis=1)}

    return _servable(model, encode, "tokens", token_rows(ROWS), ("embedding", "logits", "label"))


def token_rows(rows: int) -> Array:
    """Return tokens, int32 (rows, LENGTH)."""
    return np.random.default_rng(2).integers(0, VOCABULARY, (rows, LENGTH)).astype(np.int32)


def images(rows: int, seed: int) -> Array:
    """Return images with soft shapes and some noise, float32 (rows, SIDE, SIDE, 3), values 0 to 255."""
    random = np.random.default_rng(seed)
    shapes = tf.image.resize(random.uniform(0, 255, (rows, 8, 8, 3)), (SIDE, SIDE), method="bicubic").numpy()
    noisy: Array = np.clip(shapes + random.normal(0, 12, shapes.shape), 0, 255).astype(np.float32)
    return noisy


def _network(name: str) -> Any:
    keras.utils.set_random_seed(5)
    if not TINY:
        return getattr(keras.applications, name)(weights=None, classifier_activation=None)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(8, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def _classifier(network: Any, dtype: str) -> Servable:
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1.0)
    _calibrate(network, pixels(images(16, seed=99)))
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), pixels, network])

    def classify(image: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = tf.nn.softmax(model(tf.cast(image, tf.float32), training=False))
        return {"scores": scores, "label": tf.argmax(scores, axis=1)}

    return _servable(model, classify, "image", images(ROWS, seed=1).astype(dtype), ("scores", "label"))


def _calibrate(network: Any, pixels: tf.Tensor) -> None:
    """Give the batch normalizations the statistics of `pixels`: without them random weights make outputs overflow."""
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    network(pixels, training=True)


def _servable(model: Any, function: Any, name: str, rows: Array, outputs: tuple[str, ...]) -> Servable:
    spec = TensorSpec(rows.dtype.name, (None, *rows.shape[1:]))
    return Servable(
        model, {"serving_default": Signature(function, {name: spec}, outputs)}, {"serving_default": {name: rows}}
    )
