"""Small SavedModels, as their users export them: `tf.saved_model.save` with explicit signatures."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.tensors import Array, to_proto

Signatures = dict[str, Any]


def save(folder: Path, version: int, module: tf.Module, signatures: Signatures) -> Path:
    """Writes a version the way exports should: beside the others under a name no server reads, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
    tf.saved_model.save(module, str(hidden), signatures=signatures)
    target = folder / str(version)
    hidden.chmod(0o755)
    hidden.rename(target)
    return target


def function(run: Callable[..., Any], **inputs: tuple[Any, list[int | None] | None]) -> Any:
    """A `tf.function` of named inputs, each a dtype and a shape."""
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, (dtype, shape) in inputs.items()]
    return tf.function(run, input_signature=specs)


def scale(folder: Path, version: int, factor: float) -> Path:
    """`y` is `x` (any number of rows of 3) times `factor`, a variable; `version` names the version in every row."""
    module = tf.Module()
    module.factor = tf.Variable(factor)
    module.version = tf.Variable(version, dtype=tf.int64)

    def run(x: Any) -> dict[str, Any]:
        return {"y": x * module.factor, "version": tf.fill([tf.shape(x)[0]], module.version)}

    module.run = function(run, x=(tf.float32, [None, 3]))
    return save(folder, version, module, {"serving_default": module.run})


def sums(folder: Path, version: int, scale: float) -> Path:
    """What `tests.scaled` exports, without a proof: `sums` are the sums of `rows` times `scale`."""
    module = tf.Module()
    module.scale = tf.Variable(scale)
    module.run = function(
        lambda rows: {"sums": tf.reduce_sum(rows, axis=1) * module.scale}, rows=(tf.float32, [None, 3])
    )
    return save(folder, version, module, {"serving_default": module.run})


def kinds(folder: Path) -> Path:
    """One signature for each of several element types, that answers its input `x` of any shape as `y`."""
    module = tf.Module()
    signatures = {}
    for name in ("float32", "float64", "int64", "int32", "uint8", "bool", "string", "float16"):
        # An output that is the input itself would make a signature that can't be run.
        copy = function(lambda x: {"y": tf.reshape(tf.identity(x), tf.shape(x))}, x=(tf.as_dtype(name), None))
        setattr(module, name, copy)
        signatures[name] = copy
    module.encoded = function(lambda x: {"y_bytes": tf.strings.upper(x)}, x=(tf.string, [None]))
    return save(folder, 1, module, signatures | {"encoded": module.encoded})


def pair(folder: Path) -> Path:
    """Two inputs, `features` (rows of 3) and `weight`; two outputs, `total` and `doubled`, through a matrix product."""
    module = tf.Module()
    module.ones = tf.Variable(tf.ones([3, 1]))

    def run(features: Any, weight: Any) -> dict[str, Any]:
        total = tf.squeeze(tf.matmul(features, module.ones), axis=1) * weight
        return {"total": total, "doubled": features * 2}

    module.run = function(run, features=(tf.float32, [None, 3]), weight=(tf.float32, [None]))
    return save(folder, 1, module, {"serving_default": module.run})


def lookup(folder: Path) -> Path:
    """`id` is the line of `word` in a vocabulary, an asset of the model; -1 for a word that is not in it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocabulary.txt"
    vocabulary.write_text("red\ngreen\nblue\n")
    module = tf.Module()
    module.vocabulary = tf.saved_model.Asset(str(vocabulary))
    lines = tf.lookup.TextFileInitializer(
        module.vocabulary.asset_path,
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module.table = tf.lookup.StaticHashTable(lines, -1)
    module.run = function(lambda word: {"id": module.table.lookup(word)}, word=(tf.string, [None]))
    path = save(folder, 1, module, {"serving_default": module.run})
    # Only the copy inside the version can be what is served.
    vocabulary.unlink()
    return path


def fatal(folder: Path, version: int = 1) -> Path:
    """A convolution of `x`, which is of any rank: one of rank 1 ends the process, by a check of oneDNN's."""
    module = tf.Module()
    module.run = function(lambda x: {"y": tf.nn.conv2d(x, tf.ones([1, 1, 1, 1]), 1, "SAME")}, x=(tf.float32, None))
    return save(folder, version, module, {"serving_default": module.run})


def slow(folder: Path) -> Path:
    """Takes as long as `steps` matrix products of 200 by 200 take, then answers how many they were as `done`."""
    module = tf.Module()

    def run(steps: Any) -> dict[str, Any]:
        start = (tf.constant(0, tf.int32), tf.eye(200))
        count, product = tf.while_loop(
            lambda count, _: count < steps[0], lambda count, product: (count + 1, tf.matmul(product, product)), start
        )
        return {"done": tf.reshape(count, [1]) + tf.cast(product[0, 0] * 0, tf.int32)}

    module.run = function(run, steps=(tf.int32, [1]))
    return save(folder, 1, module, {"serving_default": module.run})


def endless(folder: Path) -> Path:
    """Never answers, for any `x` of one row or more."""
    module = tf.Module()

    def run(x: Any) -> dict[str, Any]:
        return {"y": tf.while_loop(lambda x: tf.reduce_max(x) < np.inf, lambda x: (x * 1.0,), [x])[0]}

    module.run = function(run, x=(tf.float32, [None]))
    return save(folder, 1, module, {"serving_default": module.run})


def gated(folder: Path) -> Path:
    """Answers the contents of the file `path` as `contents`, but not before there are any."""
    module = tf.Module()

    def run(path: Any) -> dict[str, Any]:
        contents = tf.while_loop(lambda read: tf.equal(read, ""), lambda _: [tf.io.read_file(path[0])], [""])
        return {"contents": tf.reshape(contents, [1])}

    module.run = function(run, path=(tf.string, [1]))
    return save(folder, 1, module, {"serving_default": module.run})


def broken(folder: Path, version: int, good: Path) -> Path:
    """A copy of the version `good` whose saved_model.pb is cut in half, appearing at once."""
    hidden = folder / f".tmp-broken-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(good, hidden)
    graph = hidden / "saved_model.pb"
    os.truncate(graph, graph.stat().st_size // 2)
    return hidden.rename(folder / str(version))


def warmup(version: Path, *requests: dict[str, Array], signature: str = "") -> None:
    """Gives a version warm-up requests for a signature; without a name for its default signature."""
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for inputs in requests:
            log = PredictionLog()
            for name, array in inputs.items():
                log.predict_log.request.inputs[name].CopyFrom(to_proto(array))
            log.predict_log.request.model_spec.name = version.parent.name
            log.predict_log.request.model_spec.signature_name = signature
            writer.write(log.SerializeToString())


def rows(count: int) -> Array:
    """`count` different rows of 3 float32."""
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def examples(folder: Path) -> Path:
    """Signatures on serialized tf.Examples with a float feature `f`, 1 by default, and a string feature `s`.

    `classify` answers the classes `s` and `other` with the scores f and -f, `regress` twice f, `labels` and `scores`
    one of the two alone.
    """
    module = tf.Module()
    module.two = tf.Variable(2.0)
    features = {"f": tf.io.FixedLenFeature([], tf.float32, 1.0), "s": tf.io.FixedLenFeature([], tf.string, "none")}

    def run(inputs: Any, chosen: tuple[str, ...]) -> dict[str, Any]:
        parsed = tf.io.parse_example(inputs, features)
        outputs = {
            "classes": tf.stack([parsed["s"], tf.fill(tf.shape(parsed["s"]), "other")], axis=1),
            "scores": tf.stack([parsed["f"], -parsed["f"]], axis=1),
            "outputs": parsed["f"] * module.two,
        }
        return {name: outputs[name] for name in chosen}

    signatures = {}
    for name, chosen in (
        ("classify", ("classes", "scores")),
        ("regress", ("outputs",)),
        ("labels", ("classes",)),
        ("scores", ("scores",)),
    ):
        signature = function(lambda inputs, chosen=chosen: run(inputs, chosen), inputs=(tf.string, [None]))
        setattr(module, name, signature)
        signatures[name] = signature
    return save(folder, 1, module, signatures)


def unsafe(folder: Path, *names: str) -> Path:
    """Those of these signatures: `read` answers what is in the file `path`, `python` calls it, `double` is harmless."""
    module = tf.Module()
    signatures = {
        "read": function(lambda path: {"y": tf.map_fn(tf.io.read_file, path)}, path=(tf.string, [None])),
        "python": function(
            lambda x: {"y": tf.numpy_function(lambda array: array * 2, [x], tf.float32)}, x=(tf.float32, [None])
        ),
        "double": function(lambda x: {"y": x * 2}, x=(tf.float32, [None])),
    }
    chosen = {name: signatures[name] for name in names}
    for name, signature in chosen.items():
        setattr(module, name, signature)
    return save(folder, 1, module, chosen)


def writes_when_loaded(folder: Path, target: Path) -> Path:
    """Writes the file `target` when it is loaded, as its initialisation."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "1"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": x * 2})
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=tf.io.write_file(str(target), "here")
        )
        builder.save()
    return path


def trained(folder: Path) -> Path:
    """As TensorFlow 1 wrote it, with what trained it: `y` is `x` times a variable, and `id` the line of `word`."""
    folder.mkdir(parents=True, exist_ok=True)
    v1 = tf.compat.v1
    vocabulary = folder / "vocabulary.txt"
    vocabulary.write_text("red\nblue\n")
    with tf.Graph().as_default(), v1.Session() as session:
        x, word = v1.placeholder(tf.float32, [None], "x"), v1.placeholder(tf.string, [None], "word")
        factor = v1.get_variable("factor", initializer=3.0, use_resource=False)
        lines = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        table = tf.lookup.StaticHashTable(lines, -1)
        rows = tf.strings.to_number(tf.queue.FIFOQueue(2, [tf.string]).dequeue()) + tf.cast(
            tf.strings.length(tf.io.read_file("/nowhere")), tf.float32
        )
        v1.train.AdamOptimizer().minimize((rows - factor) ** 2)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.predict_signature_def(
            {"x": x, "word": word}, {"y": x * factor, "id": table.lookup(word)}
        )
        builder = v1.saved_model.Builder(str(folder / "1"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            main_op=v1.tables_initializer(),
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        )
        builder.save()
    vocabulary.unlink()
    return folder / "1"
