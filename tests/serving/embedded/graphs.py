"""SavedModels written node by node, of few nodes: what no exporter writes, an attacker may."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfserving.foundation.graph import INIT

STRING = int(tf.string.as_datatype_enum)
# Gives a MetaGraphDef, which has the string `x` and the constant `path`, its other nodes.
Way = Callable[[Any], object]


def model(way: Way, file: str) -> Any:
    """A MetaGraphDef that does something to `file`; its signature takes `x` and returns `y`, nodes of these names."""
    meta = SavedModel().meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    add(meta, "Placeholder", "x", dtype=tf.string)
    add(meta, "Const", "path", dtype=tf.string, value=AttrValue(tensor=tf.make_tensor_proto(file)))
    sign(meta, "y:0")
    way(meta)
    return meta


def write(folder: Path, *metas: Any, name: str = "saved_model.pb") -> Path:
    """Writes a version with these graphs."""
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(SavedModel(saved_model_schema_version=1, meta_graphs=metas).SerializeToString())
    return folder


def run(meta: Any, what: str) -> Any:
    """What TensorFlow gives for the tensor or operation `what` of a MetaGraphDef."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(meta.graph_def, name="")
        return session.run(what, {"x:0": b"x"})


def save(version: Path, variable: str) -> None:
    """Gives a version a checkpoint with a string variable."""
    (version / "variables").mkdir()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        file = str(version / "variables" / "variables")
        session.run(tf.raw_ops.SaveV2(prefix=file, tensor_names=[variable], shape_and_slices=[""], tensors=["value"]))


def sign(meta: Any, output: str, name: str = "serving_default", fed: str = "x:0") -> None:
    """Gives a MetaGraphDef a signature from the tensor `fed` to the tensor `output`."""
    signature = meta.signature_def[name]
    signature.method_name = "tensorflow/serving/predict"
    for info, tensor in ((signature.inputs["x"], fed), (signature.outputs["y"], output)):
        info.name, info.dtype, info.tensor_shape.unknown_rank = tensor, STRING, True


def initialise(meta: Any, operation: str) -> None:
    """Has `operation` run when the graph is loaded."""
    meta.signature_def[INIT].outputs[INIT].name = operation


def add(nodes: Any, operation: str, name: str, *inputs: str, **attributes: Any) -> None:
    """Adds a node to a MetaGraphDef or a FunctionDef, with attributes that are bytes, types, or an AttrValue."""
    nodes = nodes.graph_def.node if hasattr(nodes, "graph_def") else nodes.node_def
    node = nodes.add(op=operation, name=name, input=inputs)
    for key, value in attributes.items():
        if isinstance(value, bytes):
            node.attr[key].s = value
        elif isinstance(value, tf.DType):
            node.attr[key].type = value.as_datatype_enum
        else:
            node.attr[key].CopyFrom(value)


def function(meta: Any, name: str) -> Any:
    """Adds a function from the string `x` to the result of its node `y`."""
    made = meta.graph_def.library.function.add()
    made.signature.name = name
    made.signature.input_arg.add(name="x", type=STRING)
    made.signature.output_arg.add(name="r", type=STRING)
    made.ret["r"] = "y:output:0"
    return made


def reader(meta: Any, name: str = "read") -> Any:
    """Adds a function from a path to what is in that file."""
    made = function(meta, name)
    add(made, "ReadFile", "file", "x")
    add(made, "Identity", "y", "file:contents:0", T=tf.string)
    return made


def same(meta: Any, name: str = "same") -> Any:
    """Adds a function from a string to itself."""
    made = function(meta, name)
    add(made, "Identity", "y", "x", T=tf.string)
    return made


def types(*dtypes: Any) -> Any:
    """The value of an attribute that lists types."""
    return AttrValue(list=AttrValue.ListValue(type=[dtype.as_datatype_enum for dtype in dtypes]))


def named(name: str, **attributes: Any) -> Any:
    """The value of an attribute that names a function, with attributes for it."""
    value = AttrValue()
    value.func.name = name
    for key, inner in attributes.items():
        value.func.attr[key].CopyFrom(inner)
    return value


def call(nodes: Any, f: Any, name: str = "y", argument: str = "path") -> None:
    """Adds a node that calls `f`."""
    add(nodes, "StatefulPartitionedCall", name, argument, f=f, Tin=types(tf.string), Tout=types(tf.string))


def applying(meta: Any) -> Any:
    """Adds a function `apply` that calls the function that its caller names in the attribute `g`."""
    made = function(meta, "apply")
    made.signature.attr.add(name="g", type="func")
    call(made, AttrValue(placeholder="g"), "inner", "x")
    add(made, "Identity", "y", "inner:output:0", T=tf.string)
    return made


def copying(meta: Any) -> None:
    """Has the signature return its input."""
    add(meta, "Identity", "y", "x", T=tf.string)


def restoring(meta: Any, operation: str) -> None:
    """Has `operation` run as what restores the variables."""
    saver = meta.saver_def
    saver.restore_op_name, saver.filename_tensor_name, saver.save_tensor_name, saver.version = (
        operation,
        "x:0",
        "x:0",
        2,
    )


def checkpoint(meta: Any, prefix: str, name: str = "restore") -> None:
    """Adds an operation that reads the tensor `n` from a checkpoint."""
    for constant, text in (("names", ["n"]), ("slices", [""])):
        add(meta, "Const", constant, dtype=tf.string, value=AttrValue(tensor=tf.make_tensor_proto(text)))
    add(meta, "RestoreV2", name, prefix, "names", "slices", dtypes=types(tf.string))


def table(meta: Any) -> None:
    """Adds a table, and has the signature return the line that it has for `x`."""
    add(meta, "HashTableV2", "table", key_dtype=tf.string, value_dtype=tf.int64, shared_name=b"table")
    add(meta, "Const", "none", dtype=tf.int64, value=AttrValue(tensor=tf.make_tensor_proto(-1, tf.int64)))
    add(meta, "LookupTableFindV2", "line", "table", "x", "none", Tin=tf.string, Tout=tf.int64)
    add(meta, "AsString", "y", "line", T=tf.int64)


def filling(nodes: Any, path: str, name: str = "fill") -> None:
    """Adds what fills the table with the lines of a file."""
    indices = {"key_index": AttrValue(i=-2), "value_index": AttrValue(i=-1)}
    add(nodes, "InitializeTableFromTextFileV2", name, "table", path, **indices)


def asset(meta: Any, file: str, tensor: str = "asset:0") -> None:
    """Gives the version an asset, whose path a tensor gets when the graph is loaded."""
    add(meta, "Placeholder", tensor.removesuffix(":0"), dtype=tf.string)
    meta.asset_file_def.add(filename=file).tensor_info.name = tensor


class Bait:
    """A file that whoever opens it is noticed by: a pipe whose other end a thread holds out."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bait"
        self.opened = threading.Event()
        os.mkfifo(self.path)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        with self.path.open("wb"):
            self.opened.set()

    def release(self) -> bool:
        """Ends the wait; returns whether somebody had opened it before."""
        before = self.opened.is_set()
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._thread.join()
        os.close(reader)
        return before
