"""Ways in which a SavedModel may get at the files of the server that runs it, and how a table properly does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.variable_pb2 import VariableDef

from tests.serving.embedded.graphs import (
    Way,
    add,
    applying,
    asset,
    call,
    checkpoint,
    copying,
    filling,
    function,
    initialise,
    named,
    reader,
    restoring,
    same,
    sign,
    table,
    types,
)
from tfserving.foundation.graph import INIT


def _directly(meta: Any) -> None:
    add(meta, "ReadFile", "y", "path")


def _by_function(meta: Any) -> None:
    reader(meta)
    call(meta, named("read"))


def _by_its_name(meta: Any) -> None:
    reader(meta)
    add(meta, "read", "y", "path")


def _by_attribute(meta: Any) -> None:
    reader(meta)
    applying(meta)
    add(meta, "apply", "y", "path", g=named("read"))


def _by_attribute_of_an_attribute(meta: Any) -> None:
    reader(meta)
    applying(meta)
    call(meta, named("apply", g=named("read")))


def _by_default(meta: Any) -> None:
    reader(meta)
    applying(meta).signature.attr[0].default_value.func.name = "read"
    add(meta, "apply", "y", "path")


def _by_list(meta: Any) -> None:
    reader(meta)
    add(meta, "Const", "zero", dtype=tf.int32, value=AttrValue(tensor=tf.make_tensor_proto(0)))
    branches = AttrValue(list=AttrValue.ListValue(func=[named("read").func]))
    add(meta, "Case", "y", "zero", "path", branches=branches, Tin=types(tf.string), Tout=types(tf.string))


def _as_gradient(meta: Any) -> None:
    reader(meta)
    same(meta)
    meta.graph_def.library.gradient.add(function_name="same", gradient_func="read")
    call(meta, named("same"))


def _as_registered_gradient(meta: Any) -> None:
    reader(meta)
    meta.graph_def.library.registered_gradients.add(registered_op_type="Identity", gradient_func="read")
    add(meta, "Identity", "y", "path", T=tf.string)


def _as_other_implementation(meta: Any) -> None:
    for made in (reader(meta), same(meta)):
        made.attr["api_implements"].s = b"both"
    call(meta, named("same"))


def _under_a_harmless_name(meta: Any) -> None:
    reader(meta, "DeepCopy")
    add(meta, "DeepCopy", "y", "path", T=tf.string)


def _before_an_output(meta: Any) -> None:
    add(meta, "WriteFile", "write", "path", "x")
    add(meta, "Identity", "y", "x", "^write", T=tf.string)


def _behind_a_fed_tensor(meta: Any) -> None:
    add(meta, "ReadFile", "file", "path")
    add(meta, "Identity", "y", "file", T=tf.string)
    sign(meta, "y:0", fed="file:0")


def _by_print(meta: Any) -> None:
    file = meta.graph_def.node[1].attr["value"].tensor.string_val[0]
    add(meta, "PrintV2", "print", "path", output_stream=b"file://" + file)
    add(meta, "Identity", "y", "x", "^print", T=tf.string)


def _by_print_of_the_callers_choice(meta: Any) -> None:
    made = function(meta, "printing")
    made.signature.attr.add(name="to", type="string")
    add(made, "PrintV2", "print", "x", output_stream=AttrValue(placeholder="to"))
    add(made, "Identity", "y", "x", "^print", T=tf.string)
    file = meta.graph_def.node[1].attr["value"].tensor.string_val[0]
    add(meta, "printing", "y", "path", to=b"file://" + file)


def _by_a_dataset_of_the_request(meta: Any) -> None:
    add(meta, "DatasetFromGraph", "dataset", "x")
    shapes = AttrValue(list=AttrValue.ListValue(shape=[tf.TensorShape([]).as_proto()]))
    add(meta, "DatasetToSingleElement", "y", "dataset", output_types=types(tf.string), output_shapes=shapes)


def _by_symbolic_gradient(meta: Any) -> None:
    same(meta)
    add(meta, "SymbolicGradient", "y", "path", "x", f=named("same"), Tin=types(tf.string), Tout=types(tf.string))


def _by_an_unknown_operation(meta: Any) -> None:
    add(meta, "CompanyReader", "y", "path")


def _as_a_name_given_twice(meta: Any) -> None:
    add(meta, "ReadFile", "y", "path")
    add(meta, "Identity", "y", "path", T=tf.string)


# For each way the operation that is refused.
IN_SIGNATURES: Mapping[Way, str] = {
    _directly: "ReadFile",
    _by_function: "ReadFile",
    _by_its_name: "ReadFile",
    _by_attribute: "ReadFile",
    _by_attribute_of_an_attribute: "ReadFile",
    _by_default: "ReadFile",
    _by_list: "ReadFile",
    _as_gradient: "ReadFile",
    _as_registered_gradient: "ReadFile",
    _as_other_implementation: "ReadFile",
    _under_a_harmless_name: "ReadFile",
    _before_an_output: "WriteFile",
    _behind_a_fed_tensor: "ReadFile",
    _by_print: "PrintV2",
    _by_print_of_the_callers_choice: "PrintV2",
    _by_a_dataset_of_the_request: "Dataset",
    _by_symbolic_gradient: "SymbolicGradient",
    _by_an_unknown_operation: "CompanyReader",
    _as_a_name_given_twice: "same name",
}
# Those that do it in TensorFlow, too, if they are let.
READ = (_directly, _by_function, _by_its_name, _by_attribute, _by_attribute_of_an_attribute, _by_default, _by_list)
WRITE = (_before_an_output, _by_print, _by_print_of_the_callers_choice)


def _when_initialised(meta: Any) -> None:
    copying(meta)
    add(meta, "WriteFile", "write", "path", "path")
    initialise(meta, "write")


def _when_initialised_as_in_tensorflow_1(meta: Any) -> None:
    copying(meta)
    add(meta, "WriteFile", "write", "path", "path")
    meta.collection_def["legacy_init_op"].node_list.value.append("write")


def _as_a_part_of_what_is_initialised(meta: Any) -> None:
    copying(meta)
    add(meta, "ReadFile", "file", "path")
    sparse = meta.signature_def[INIT].outputs[INIT].coo_sparse
    sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name = "file:0", "y:0", "y:0"


def _when_restored(meta: Any) -> None:
    copying(meta)
    add(meta, "WriteFile", "write", "path", "path")
    restoring(meta, "write")


def _as_another_checkpoint(meta: Any) -> None:
    copying(meta)
    checkpoint(meta, "path")
    restoring(meta, "restore")


def _as_a_checkpoint_when_initialised(meta: Any) -> None:
    copying(meta)
    checkpoint(meta, "x")
    restoring(meta, "y")
    initialise(meta, "restore")


def _as_a_table(meta: Any) -> None:
    table(meta)
    filling(meta, "path")
    initialise(meta, "fill")


def _as_a_table_behind_an_asset(meta: Any) -> None:
    asset(meta, "words")
    table(meta)
    add(meta, "Identity", "chosen", "path", "^asset", T=tf.string)
    filling(meta, "chosen")
    initialise(meta, "fill")


def _as_a_table_whose_function_gets_itself(meta: Any) -> None:
    """Who calls the function a second time, with which file, is not to be seen."""
    asset(meta, "words")
    table(meta)
    made = function(meta, "filling")
    made.signature.input_arg.add(name="table", type=tf.resource.as_datatype_enum)
    made.signature.attr.add(name="g", type="func")
    filling(made, "x")
    add(made, "Identity", "y", "x", "^fill", T=tf.string)
    add(meta, "filling", "filled", "asset", "table", g=named("filling"))
    initialise(meta, "filled")


# What runs when the graph is loaded.
ON_LOADING: Mapping[Way, str] = {
    _when_initialised: "WriteFile",
    _when_initialised_as_in_tensorflow_1: "WriteFile",
    _as_a_part_of_what_is_initialised: "ReadFile",
    _when_restored: "WriteFile",
    _as_another_checkpoint: "RestoreV2",
    _as_a_checkpoint_when_initialised: "RestoreV2",
    _as_a_table: "InitializeTableFromTextFileV2",
    _as_a_table_behind_an_asset: "InitializeTableFromTextFileV2",
    _as_a_table_whose_function_gets_itself: "InitializeTableFromTextFileV2",
}


WRITE_ON_LOADING = (_when_initialised, _when_initialised_as_in_tensorflow_1)


def by_a_variable_of_a_collection(meta: Any) -> None:
    """A variable that TensorFlow in Python restores; what its handle waits for writes a file."""
    copying(meta)
    add(meta, "Const", "names", dtype=tf.string, value=AttrValue(tensor=tf.make_tensor_proto(["n"])))
    add(meta, "Const", "slices", dtype=tf.string, value=AttrValue(tensor=tf.make_tensor_proto([""])))
    add(meta, "SaveV2", "save", "path", "names", "slices", "path", dtypes=types(tf.string))
    scalar = AttrValue(shape=tf.TensorShape([]).as_proto())
    add(meta, "VarHandleOp", "variable", "^save", dtype=tf.string, shape=scalar, shared_name=b"variable")
    add(meta, "ReadVariableOp", "read", "variable", dtype=tf.string)
    add(meta, "AssignVariableOp", "assign", "variable", "path", dtype=tf.string)
    variable = VariableDef(variable_name="variable:0", initializer_name="assign", snapshot_name="read:0")
    variable.is_resource, variable.initial_value_name = True, "path:0"
    meta.collection_def["variables"].bytes_list.value.append(variable.SerializeToString())


def own_table(file: str = "words") -> Way:
    """A table that is filled from the asset `file`, as TensorFlow 1 wrote it."""

    def way(meta: Any) -> None:
        asset(meta, file)
        table(meta)
        filling(meta, "asset")
        initialise(meta, "fill")

    return way


def own_table_by_variable(meta: Any) -> None:
    """As TensorFlow 2 writes it, but for another path that the variable gets just before it is read."""
    asset(meta, "words")
    table(meta)
    for handle in ("variable", "alias"):
        shape = AttrValue(shape=tf.TensorShape([]).as_proto())
        add(meta, "VarHandleOp", handle, dtype=tf.string, shape=shape, shared_name=b"variable")
    add(meta, "AssignVariableOp", "assign", "variable", "asset", dtype=tf.string)
    add(meta, "AssignVariableOp", "reassign", "alias", "path", "^assign", dtype=tf.string)
    add(meta, "ReadVariableOp", "read", "variable", "^reassign", dtype=tf.string)
    filling(meta, "read")
    add(meta, "NoOp", "init", "^fill", "^assign")
    initialise(meta, "init")


def own_table_beside_a_signature_that_fills_it(meta: Any) -> None:
    """The signature `fill` fills the table from whatever file it is sent."""
    own_table()(meta)
    add(meta, "Identity", "filled", "x", "^refill", T=tf.string)
    filling(meta, "x", "refill")
    sign(meta, "filled:0", "fill")
