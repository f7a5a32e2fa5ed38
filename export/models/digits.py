"""A small convolutional network for scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels, from 0 to 16."""

from __future__ import annotations

import sys
from importlib.resources import files

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tfserving.export.servable import Evaluation, Metric, Servable, Signature, TensorSpec
from tfserving.export.training import recipe_key, trained_weights
from tfserving.export.training_data import digest_of
from tfserving.foundation.tensors import Array

SEED = 7
EPOCHS = 20
BATCH = 64
# The largest value of a pixel.
WHITE = 16.0
LOWEST_ACCURACY = 0.97


def build() -> Servable:
    """Train the network, or load its weights from the cache, and declare its signature.

    Input: `image` uint8 (None, 8, 8, 1), values from 0 to 16, which the graph converts; larger ones count as 16.
    Outputs: `scores` float32 (None, 10), which add up to 1, and `label` int64 (None,). Raises ValueError when the test
    accuracy is below 97 %.
    """
    digits = load_digits()
    images, labels = digits.images[..., np.newaxis].astype(np.uint8), digits.target
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, random_state=SEED, stratify=labels
    )
    keras.utils.set_random_seed(SEED)
    model = _network()

    def train() -> list[Array]:
        steps = EPOCHS * -(-len(train_images) // BATCH)
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(train_images, train_labels, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[_Progress()])
        return model.get_weights()  # type: ignore[no-any-return]

    key = recipe_key(sys.modules[__name__], ("keras", "numpy", "scikit-learn", "tensorflow"))
    model.set_weights(trained_weights(key, train))

    def read(image: tf.Tensor) -> dict[str, tf.Tensor]:
        # Bytes are a quarter of the size of float32, on the wire and on the way to a GPU.
        scores = model(tf.minimum(tf.cast(image, tf.float32), WHITE), training=False)
        return {"scores": scores, "label": tf.argmax(scores, axis=1)}

    accuracy = float(np.mean(read(tf.constant(test_images))["label"].numpy() == test_labels))
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(f"the test accuracy is {accuracy:.1%}, expected at least {LOWEST_ACCURACY:.0%}")
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(
                function=read, inputs={"image": TensorSpec("uint8", (None, 8, 8, 1))}, outputs=("scores", "label")
            )
        },
        examples={"serving_default": {"image": test_images[:64]}},
        metrics={"test_accuracy": Metric(accuracy, rows=len(test_labels))},
        evaluation=Evaluation({"image": test_images}, test_labels, metric="accuracy", output="scores"),
        training_data={"digits.csv.gz of scikit-learn": digest_of(files("sklearn.datasets") / "data/digits.csv.gz")},
    )


def _network() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / WHITE),
            # Digits aren't always centred. This layer is active only during training.
            layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10, activation="softmax"),
        ]
    )


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Prints one line for each epoch on stderr; stdout is for the export's result."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        values = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        print(f"  epoch {epoch + 1}/{EPOCHS}  {values}", file=sys.stderr)
