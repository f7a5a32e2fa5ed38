"""A model that takes as much memory as it is asked to: as many float32 as its largest input says."""

from __future__ import annotations

import numpy as np

from tfserving.export.servable import Servable, Signature, TensorSpec


def build() -> Servable:
    import tensorflow as tf

    module = tf.Module()
    module.one = tf.Variable(1.0)

    def sums(elements: tf.Tensor) -> dict[str, tf.Tensor]:
        taken = tf.ones([tf.reduce_max(elements)]) * module.one
        return {"counted": tf.minimum(tf.cast(elements, tf.float32), tf.reduce_sum(taken))}

    return Servable(
        module,
        {"serving_default": Signature(sums, {"elements": TensorSpec("int32", (None,))}, ("counted",))},
        {"serving_default": {"elements": np.arange(1, 33, dtype=np.int32)}},
    )
