"""SavedModels as people find them: what TensorFlow 1, Keras and others wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tests.serving.embedded.saved_models import trained

v1 = tf.compat.v1


def tf1(folder: Path) -> Path:
    """`y` is `x` times 3, a reference variable, and `id` the line of `word` in a vocabulary, an asset."""
    return trained(folder)


def classifier(folder: Path) -> Path:
    """As an estimator exported it: to classify, to regress and to predict, all of tf.Examples."""
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.io.parse_example(
            examples,
            {
                "age": tf.io.FixedLenFeature([], tf.float32),
                "counts": tf.io.FixedLenFeature([2], tf.int64),
                "job": tf.io.VarLenFeature(tf.string),
            },
        )
        factor = v1.get_variable("factor", initializer=0.5)
        jobs = v1.sparse.to_dense(parsed["job"], default_value="")
        counted = tf.reduce_sum(tf.cast(parsed["counts"], tf.float32), 1) + tf.cast(tf.shape(jobs)[1], tf.float32)
        score = tf.sigmoid(parsed["age"] * factor + counted)
        classes = tf.tile([["no", "yes"]], [tf.shape(score)[0], 1])
        signatures = {
            "serving_default": v1.saved_model.classification_signature_def(
                examples, classes, tf.stack([1 - score, score], axis=1)
            ),
            "regress": v1.saved_model.regression_signature_def(examples, score),
            "predict": v1.saved_model.predict_signature_def({"examples": examples}, {"score": score}),
        }
        session.run(v1.global_variables_initializer())
        return _write_tf1(session, folder, signatures)


def sparse(folder: Path) -> Path:
    """An input that is sparse, which no request can carry, and beside it a signature without one."""
    with tf.Graph().as_default(), v1.Session() as session:
        values, x = v1.sparse_placeholder(tf.float32, [None, 3], name="values"), v1.placeholder(tf.float32, [None])
        summed = v1.sparse.reduce_sum(values, 1)
        info = v1.saved_model.build_tensor_info
        signatures = {
            "serving_default": v1.saved_model.build_signature_def(
                {"values": info(values)}, {"sum": info(summed)}, "tensorflow/serving/predict"
            ),
            "double": v1.saved_model.predict_signature_def({"x": x}, {"y": x * 2}),
        }
        return _write_tf1(session, folder, signatures)


def tagged(folder: Path, *tags: str) -> Path:
    """Of a graph with these `tags`."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        return _write_tf1(
            session,
            folder,
            {"serving_default": v1.saved_model.predict_signature_def({"x": x}, {"y": x * 2})},
            tags,
        )


def keras_export(folder: Path) -> Path:
    """A layer that is a list's, exported by Keras: `output_0` for any rows of four."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(2, activation="relu")])
    model.export(folder, verbose=False)
    return folder


def saved(folder: Path, function: Callable[..., Any], **inputs: tuple[Any, Any]) -> Path:
    """What `tf.saved_model.save` writes of `function`, for inputs of a dtype and a shape each."""
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, (dtype, shape) in inputs.items()]
    module = tf.Module()
    module.run = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.run)
    return folder


def lookup(folder: Path) -> Path:
    """The number of a `word` in a mutable table, whose lookup says nothing of its shape."""
    module = tf.Module()
    module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    module.table.insert(["cat", "Zürich"], [3, 4])
    module.run = tf.function(
        lambda word: {"number": module.table.lookup(word)}, input_signature=[tf.TensorSpec([None], tf.string, "word")]
    )
    tf.saved_model.save(module, str(folder), signatures=module.run)
    return folder


def embedded(ids: Any, kinds: Any) -> dict[str, Any]:
    """What a text model does: looks numbers of words, and of two kinds, up in tables that end."""
    words, two = tf.range(12.0)[:, tf.newaxis], tf.constant([[1.0], [2.0]])
    return {"found": tf.reduce_sum(tf.gather(words, ids)[..., 0] + tf.gather(two, kinds, axis=0)[..., 0], axis=1)}


def _write_tf1(session: Any, folder: Path, signatures: Mapping[str, Any], tags: tuple[str, ...] = ("serve",)) -> Path:
    builder = v1.saved_model.Builder(str(folder))
    builder.add_meta_graph_and_variables(session, list(tags), dict(signatures))
    builder.save()
    return folder
