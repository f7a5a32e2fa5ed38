"""A model for every rule of lint that breaks it, and only it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.export.zoo import ROWS, Scale, servable, untracked
from tfserving.export.servable import Servable, Signature, TensorSpec


def made_up_name() -> Servable:
    """Keras' own name of an output."""
    module = Scale()
    return servable(module, lambda rows: {"output_0": rows * module.factor}, ("output_0",))


def made_up_input() -> Servable:
    """Keras' own name of an input."""
    module = Scale()
    signature = Signature(
        lambda args_0: {"scaled": args_0 * module.factor}, {"args_0": TensorSpec("float32", (None, 3))}, ("scaled",)
    )
    return Servable(module, {"serving_default": signature}, {"serving_default": {"args_0": ROWS}})


def fixed_batch() -> Servable:
    """Takes two rows, never more or fewer."""
    module = Scale()
    signature = Signature(
        lambda rows: {"scaled": rows * module.factor}, {"rows": TensorSpec("float32", (2, 3))}, ("scaled",)
    )
    return Servable(module, {"serving_default": signature}, {"serving_default": {"rows": ROWS}})


def output_batch() -> Servable:
    """An answer that no row has: the sum over all of them."""
    module = Scale()
    return servable(
        module,
        lambda rows: {"scaled": rows * module.factor, "names": tf.constant(["a", "b", "c"])},
        ("scaled", "names"),
    )


def half() -> Servable:
    """An output that JSON can't carry."""
    module = Scale()
    return servable(module, lambda rows: {"scaled": tf.cast(rows * module.factor, tf.float16)})


def bfloat16() -> Servable:
    """Another one."""
    module = Scale()
    return servable(module, lambda rows: {"scaled": tf.cast(rows * module.factor, tf.bfloat16)})


def complex64() -> Servable:
    """And another one."""
    module = Scale()
    return servable(module, lambda rows: {"scaled": tf.cast(rows * module.factor, tf.complex64)})


def half_input() -> Servable:
    """An input that can't come from JSON."""
    module = Scale()
    signature = Signature(
        lambda rows: {"scaled": tf.cast(rows, tf.float32) * module.factor},
        {"rows": TensorSpec("float16", (None, 3))},
        ("scaled",),
    )
    return Servable(module, {"serving_default": signature}, {"serving_default": {"rows": ROWS.astype(np.float16)}})


def bytes_by_graph() -> Servable:
    """PNG files under a name that says text."""
    module = Scale()

    def encode(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(tf.clip_by_value(rows * module.factor, 0.0, 255.0), tf.uint8)[:, tf.newaxis, :, tf.newaxis]
        return {"image": tf.map_fn(tf.io.encode_png, pixels, fn_output_signature=tf.string)}

    return servable(module, encode, ("image",))


def bytes_by_answer() -> Servable:
    """Only the answers show that it is no text."""
    module = Scale()
    latin = tf.constant(b"caf\xe9")
    return servable(module, lambda rows: {"drink": tf.fill(tf.shape(rows * module.factor)[:1], latin)}, ("drink",))


def int_input() -> Servable:
    """A price in whole numbers, made a float at once."""
    module = Scale()
    signature = Signature(
        lambda prices: {"scaled": tf.cast(prices, tf.float32) * module.factor},
        {"prices": TensorSpec("int32", (None, 3))},
        ("scaled",),
    )
    return Servable(
        module, {"serving_default": signature}, {"serving_default": {"prices": (ROWS * 10).astype(np.int32)}}
    )


def python_op() -> Servable:
    """Calls this process's Python."""
    module = Scale()

    def scaled(rows: Any) -> Any:
        product = tf.py_function(lambda array: array * 2, [rows * module.factor], tf.float32)
        return {"scaled": tf.ensure_shape(product, (None, 3))}

    return servable(module, scaled)


def reads_files() -> Servable:
    """Reads a file of the machine that serves it."""
    module = Scale()

    def scaled(rows: Any) -> Any:
        size = tf.strings.length(tf.io.read_file("/etc/hostname"))
        return {"scaled": rows * module.factor + tf.cast(size, tf.float32)}

    return servable(module, scaled)


def writes_files() -> Servable:
    """Writes a file on the machine that serves it, in a branch of the graph."""
    module = Scale()

    @tf.function  # type: ignore[untyped-decorator]
    def scaled(rows: Any) -> Any:
        if tf.reduce_max(rows) > 1e9:
            tf.io.write_file("largest.txt", "it was large")
        return {"scaled": rows * module.factor}

    return servable(module, scaled)


def picture_of_all_rows() -> Servable:
    """Without rows it encodes a picture of no height, which ends the process."""
    module = Scale()

    def scaled(rows: Any) -> Any:
        picture = tf.io.encode_png(tf.cast(tf.clip_by_value(rows, 0.0, 1.0), tf.uint8)[:, :, tf.newaxis])
        return {"scaled": rows * module.factor * tf.cast(tf.strings.length(picture) > 0, tf.float32)}

    return servable(module, scaled)


def any_rank() -> Servable:
    """A convolution of whatever it is given."""
    module = Scale()

    def filtered(image: Any) -> Any:
        maps = tf.nn.conv2d(image, tf.reshape(module.factor, (1, 1, 1, 3)), 1, "SAME")
        return {"maps": tf.ensure_shape(maps, (None, 4, 4, 3))}

    images = np.random.default_rng(3).standard_normal((16, 4, 4, 1)).astype(np.float32)
    signature = Signature(filtered, {"image": TensorSpec("float32", None)}, ("maps",))
    return Servable(module, {"serving_default": signature}, {"serving_default": {"image": images}})


def unused_random() -> Servable:
    """Draws random numbers that no output depends on, so it can be proven."""
    module = Scale()

    def scaled(rows: Any) -> Any:
        with tf.control_dependencies([tf.random.uniform(tf.shape(rows))]):
            return {"scaled": rows * module.factor}

    return servable(module, scaled)


def counted() -> Servable:
    """Counts its requests, and nothing depends on how many they are."""
    module = Scale()
    module.count = tf.Variable(0, name="count")

    def scaled(rows: Any) -> Any:
        module.count.assign_add(1)
        return {"scaled": rows * module.factor}

    return servable(module, scaled)


BREAKING: dict[str, tuple[Callable[[], Servable], ...]] = {
    "bytes-suffix": (bytes_by_graph, bytes_by_answer),
    "empty-request": (picture_of_all_rows,),
    "file-op": (reads_files, writes_files),
    "fixed-batch": (fixed_batch,),
    "int-input": (int_input,),
    "made-up-name": (made_up_name, made_up_input),
    "output-batch": (output_batch,),
    "python-op": (python_op,),
    "random": (unused_random,),
    "rest-dtype": (half, bfloat16, complex64, half_input),
    "state": (counted,),
    "unchecked-rank": (any_rank,),
    "untracked-variable": (untracked,),
}
