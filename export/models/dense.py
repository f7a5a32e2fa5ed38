"""The subclassed Keras model of the tutorials: 32 features, a hidden layer of 64, 10 logits.

In a second it learns to imitate a teacher with the same layers and seeded weights. The data are seeded noise.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.servable import Metric, Servable, Signature, TensorSpec

FEATURES = 32
LOGITS = 10


class Dense(keras.Model):  # type: ignore[misc]
    """Dense(64, relu), then Dense(10)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(64, activation="relu")
        self.logits = keras.layers.Dense(LOGITS)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Map features, float32 (batch, 32), to logits, float32 (batch, 10)."""
        return self.logits(self.hidden(features))


def build() -> Servable:
    """Train the model and declare its signature.

    Input: `features` float32 (None, 32). Output: `logits` float32 (None, 10).
    """
    keras.utils.set_random_seed(20)
    features = np.random.default_rng(20).standard_normal((2048, FEATURES), dtype=np.float32)
    targets = Dense()(features)
    model = Dense()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    loss = model.fit(features, targets, batch_size=64, epochs=5, verbose=0).history["loss"][-1]
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(
                function=lambda features: {"logits": model(features, training=False)},
                inputs={"features": TensorSpec("float32", (None, FEATURES))},
                outputs=("logits",),
            )
        },
        examples={"serving_default": {"features": features[:64]}},
        metrics={"training_loss": Metric(loss, higher_is_better=False)},
    )
