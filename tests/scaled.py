"""A model that tells which version answered: every output is its row's sum times the SCALE of its export.

With SLOW=N it takes its time, N times as long as with SLOW=1.
"""

from __future__ import annotations

import os

import numpy as np

from tfserving.export.servable import Servable, Signature, TensorSpec


def build() -> Servable:
    """Builds it with the SCALE of the environment."""
    import tensorflow as tf

    slowness = float(os.environ.get("SLOW", "0"))
    module = tf.Module()
    module.scale = tf.Variable(float(os.environ["SCALE"]))

    def scaled(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        sums = tf.reduce_sum(rows, axis=1) * module.scale
        if slowness:
            square = tf.zeros((700, 700)) + 0 * rows[0, 0]
            for _ in range(round(20 * slowness)):
                square = tf.linalg.matmul(square, square)
            sums += square[0, 0]
        return {"sums": sums}

    return Servable(
        module,
        {"serving_default": Signature(scaled, {"rows": TensorSpec("float32", (None, 3))}, ("sums",))},
        {"serving_default": {"rows": np.random.default_rng(7).normal(size=(32, 3)).astype(np.float32)}},
    )
