"""Small models: some that can be served, and some that go wrong as models do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.servable import Servable, Signature, TensorSpec

ROWS = np.random.default_rng(3).standard_normal((40, 3)).astype(np.float32)


def servable(module: Any, function: Callable[..., Any], outputs: tuple[str, ...] = ("scaled",)) -> Servable:
    """A servable with one signature, from `rows`, three floats each, to `outputs`."""
    return Servable(
        module=module,
        signatures={"serving_default": Signature(function, {"rows": TensorSpec("float32", (None, 3))}, outputs)},
        examples={"serving_default": {"rows": ROWS}},
        metrics={"rows": len(ROWS)},
    )


class Scale(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable([2.0, 3.0, 4.0])


class Stack(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first = keras.layers.Dense(4, activation="relu")
        self.second = keras.layers.Dense(2)

    def call(self, rows: Any) -> Any:
        return self.second(self.first(rows))


def scale() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": rows * module.factor})


def talking() -> Servable:
    print("a builder that prints")
    return scale()


def slow() -> Servable:
    print("the builder runs", file=sys.stderr)
    time.sleep(60)
    return scale()


def trained() -> Servable:
    keras.utils.set_random_seed(1)
    model = Stack()
    model.compile("adam", "mse")
    model.fit(ROWS, ROWS[:, :2], epochs=1, verbose=0)
    return servable(model, lambda rows: {"scaled": model(rows, training=False)})


def texts() -> Servable:
    """Two signatures, strings in and out, a lookup table."""
    module = tf.Module()
    words = tf.constant(["cat", "dog"])
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(words, tf.constant([1, 2], tf.int64)), 0
    )
    text = {"text": TensorSpec("string", (None,))}
    rows = np.array(["cat", "dog", "bird", "Kätzchen"] * 8, np.object_)
    return Servable(
        module=module,
        signatures={
            "serving_default": Signature(lambda text: {"number": module.table.lookup(text)}, text, ("number",)),
            "loud": Signature(lambda text: {"text_bytes": tf.strings.upper(text)}, text, ("text_bytes",)),
        },
        examples={"serving_default": {"text": rows}, "loud": {"text": rows}},
    )


def unbuilt() -> Servable:
    model = Stack()
    return servable(model, lambda rows: {"scaled": model(rows)})


def fixed_output_batch() -> Servable:
    module = Scale()

    def scaled(rows: Any) -> Any:
        product = rows * module.factor
        return {"scaled": product if tf.executing_eagerly() else tf.reshape(product, (1, 3))}

    return servable(module, scaled)


def fixed_function_batch() -> Servable:
    module = Scale()
    function = tf.function(
        lambda rows: {"scaled": rows * module.factor}, input_signature=[tf.TensorSpec([1, 3], tf.float32, name="rows")]
    )
    return servable(module, function)


def missing_output() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": rows * module.factor}, ("scaled", "label"))


def undeclared_output() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": rows * module.factor, "extra": rows})


def too_few() -> Servable:
    module = Scale()
    return servable(module, lambda rows: rows * module.factor, ("scaled", "label"))


def no_batch_output() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": tf.reduce_sum(rows * module.factor)})


def ragged() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": tf.RaggedTensor.from_tensor(rows * module.factor)})


def raising() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": tf.matmul(rows, module.factor)})


def untracked() -> Servable:
    hidden = tf.Variable([1.0, 2.0, 3.0], name="hidden")
    return servable(Scale(), lambda rows: {"scaled": rows * hidden})


def random() -> Servable:
    module, generator = Scale(), np.random.default_rng(0)
    return servable(module, lambda rows: {"scaled": rows * module.factor + generator.standard_normal()})


def batch_dependent() -> Servable:
    module = Scale()
    return servable(module, lambda rows: {"scaled": (rows - tf.reduce_mean(rows, axis=0)) * module.factor})


def python_branch() -> Servable:
    """Answers otherwise as a graph: Python looks whether it runs eagerly."""
    module = Scale()
    return servable(module, lambda rows: {"scaled": rows * module.factor * (1.0 if tf.executing_eagerly() else 1.5)})


def python_op() -> Servable:
    """A graph that calls back into this process's Python."""
    module = Scale()

    def scaled(rows: Any) -> Any:
        product = tf.numpy_function(lambda array: array * np.float32(2), [rows * module.factor], tf.float32)
        return {"scaled": tf.ensure_shape(product, (None, 3))}

    return servable(module, scaled)


def failing() -> Servable:
    raise ValueError("no data in /data/train.csv")


def with_arguments(rate: float) -> Servable:
    raise AssertionError(rate)


def not_a_servable() -> dict[str, int]:
    return {}


async def waiting() -> Servable:
    return scale()


def yielding() -> Iterator[Servable]:
    yield scale()


class Broken(tf.Module):  # type: ignore[misc]
    """TensorFlow can't look at it."""

    def _trackable_children(self, *_: object, **__: object) -> dict[str, Any]:
        raise LookupError("no children today")


def broken() -> Servable:
    return servable(Broken(), lambda rows: {"scaled": rows})
