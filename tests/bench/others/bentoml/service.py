"""A BentoML service around a SavedModel, as BentoML's documentation has one written.

The environment variable VERSION names the folder of a SavedModel whose default signature has one input `x`.
"""

import os

import bentoml
import numpy as np
import tensorflow as tf


@bentoml.service(logging={"access": {"enabled": False}})
class Model:
    """A SavedModel's default signature."""

    def __init__(self) -> None:
        self._model = tf.saved_model.load(os.environ["VERSION"])
        self._signature = self._model.signatures["serving_default"]

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        """What the model returns for each row."""
        return self._signature(x=tf.constant(x, tf.float32))["y"].numpy()
