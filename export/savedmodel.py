"""Writes a servable as a SavedModel with exactly the signatures it declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from tfserving.export.errors import LintError, ServableError
from tfserving.export.graph import read_saved_model, serving_graph
from tfserving.export.manifest import ServedSignature
from tfserving.export.servable import EXAMPLES, Method, Servable, Signature, TensorSpec
from tfserving.export.tracking import trackables, variables_of
from tfserving.export.user_code import raised
from tfserving.foundation.tensors import BY_NUMBER, to_proto

METHODS: dict[str, Method] = {f"tensorflow/serving/{method}": method for method in get_args(Method)}
# What TensorFlow Serving requires of the outputs of these methods: dtype, and the possible shapes.
METHOD_SPECS: dict[str, tuple[str, tuple[tuple[int | None, ...], ...], str]] = {
    "classes": ("string", (), "(batch, classes)"),
    "scores": ("float32", (), "(batch, classes)"),
    "outputs": ("float32", ((None,), (None, 1)), "(batch,) or (batch, 1)"),
}


def check_built(servable: Servable, before: Mapping[str, Any]) -> None:
    """Raises ServableError when calling the signatures made variables that were not there `before`.

    Such a model was never built: what it answers comes from new weights that nobody trained.
    """
    new = [path for path in variables_of(servable.module) if path not in before]
    if new:
        raise ServableError(
            f"{type(servable.module).__name__} was not built: its variables {', '.join(new)} appeared only when it was "
            "called for the export, so they hold no trained values; call it, or load its weights, in the builder"
        )


def trace(servable: Servable) -> dict[str, Any]:
    """A concrete function for every signature, its inputs those that are declared.

    Raises ServableError for a signature that can't be traced with any batch size, whose outputs are not those that are
    declared, or that uses variables which the module does not track.
    """
    return {name: _trace(name, signature, servable.module) for name, signature in servable.signatures.items()}


def described(servable: Servable, functions: Mapping[str, Any]) -> dict[str, ServedSignature]:
    """The signatures that the traced `functions` of `servable` make."""
    return {
        name: ServedSignature(
            method=signature.method,
            inputs=dict(signature.inputs),
            optional=tuple(sorted(signature.defaults)),
            outputs={key: _spec_of(functions[name].structured_outputs[key]) for key in signature.outputs},
        )
        for name, signature in servable.signatures.items()
    }


def write_savedmodel(servable: Servable, functions: Mapping[str, Any], folder: Path) -> dict[str, ServedSignature]:
    """Writes the traced `functions` of `servable` into `folder`, and answers what a server will read there.

    Only what the signatures use is written: optimizer slots, metrics and training functions stay behind. The graph
    refuses inputs that don't fit their signature's shapes.
    """
    import tensorflow as tf

    used = {id(handle) for function in functions.values() for handle in function.captured_inputs}
    # A Keras variable wraps the TensorFlow variable that a function captures. Were the wrapper saved, its value would
    # be restored into a copy that no function reads, and a session, TensorFlow Serving's too, would find no value.
    variables = {id(variable.handle): variable for function in functions.values() for variable in function.variables}
    root = tf.Module()
    root.used = {
        path: variables.get(id(_resource(found)), found)
        for path, found in trackables(servable.module).items()
        if id(_resource(found)) in used
    }
    try:
        tf.saved_model.save(
            root,
            str(folder),
            signatures={name: _checked(function, servable.signatures[name]) for name, function in functions.items()},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
    except (AssertionError, tf.errors.OpError, TypeError, ValueError) as error:
        raise ServableError(f"TensorFlow can't save {type(servable.module).__name__}: {error}") from error
    _complete_signatures(servable, folder)
    written = read_signatures(folder)
    _check_written(servable, functions, written)
    return written


def _checked(function: Any, signature: Signature) -> Any:
    """The traced `function`, called only with tensors of the shapes that `signature` declares.

    Operations trust the shapes that a graph was made for: given another rank, a convolution ends the process that
    serves it, TensorFlow Serving's too. The check is not part of what `function` compiles with XLA, or was frozen to.
    """
    import tensorflow as tf

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in signature.inputs.items()}

    def checked(**inputs: Any) -> Any:
        return function(
            **{name: tf.ensure_shape(inputs[name], spec.shape, f"check_{name}") for name, spec in specs.items()}
        )

    return tf.function(checked).get_concrete_function(**specs)


def _complete_signatures(servable: Servable, folder: Path) -> None:
    """Writes what `tf.saved_model.save` leaves out of signatures: methods, defaults, and inputs in common.

    It calls every method predict. It gives every signature a placeholder of its own for tf.Examples, and
    MultiInference, which asks several signatures about the same examples, refuses signatures that don't share one
    (tensorflow/serving, servables/tensorflow/multi_inference.cc).
    """
    methods = {method: long for long, method in METHODS.items()}
    path = folder / "saved_model.pb"
    saved = read_saved_model(folder)
    graph = serving_graph(saved, folder)
    shared: str | None = None
    for name, signature in servable.signatures.items():
        definition = graph.signature_def[name]
        definition.method_name = methods[signature.method]
        for key, value in signature.defaults.items():
            definition.defaults[key].CopyFrom(to_proto(value))
        if signature.method != "predict":
            own = definition.inputs[EXAMPLES].name
            shared = shared or own
            definition.inputs[EXAMPLES].name = shared
            _feed_instead(graph.graph_def, own, shared)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _feed_instead(graph_def: Any, old: str, new: str) -> None:
    """Lets everything in the graph that takes the placeholder of tensor `old` take `new`'s, and removes the other."""
    old, new = (tensor.partition(":")[0] for tensor in (old, new))
    if old == new:
        return
    for node in graph_def.node:
        for index, source in enumerate(node.input):
            if source in (old, f"{old}:0"):
                node.input[index] = new
    kept = [node for node in graph_def.node if node.name != old]
    del graph_def.node[:]
    graph_def.node.extend(kept)


def read_signatures(folder: Path) -> dict[str, ServedSignature]:
    """The signatures that a server finds in the SavedModel in `folder`. Raises ExportError when it can't be read."""
    graph = serving_graph(read_saved_model(folder), folder)
    return {
        name: ServedSignature(
            method=METHODS[signature.method_name],
            inputs={key: _spec_of_info(info) for key, info in sorted(signature.inputs.items())},
            optional=tuple(sorted(signature.defaults)),
            outputs={key: _spec_of_info(info) for key, info in sorted(signature.outputs.items())},
        )
        for name, signature in sorted(graph.signature_def.items())
        if signature.method_name in METHODS
    }


def _resource(trackable: Any) -> Any:
    """What a function captures when it uses `trackable`: a variable's or table's handle, an asset's path."""
    for attribute in ("handle", "resource_handle", "asset_path"):
        if (resource := getattr(trackable, attribute, None)) is not None:
            return resource
    return None


def _trace(name: str, signature: Signature, module: Any) -> Any:
    import tensorflow as tf

    where = f"signature {name!r}"
    specs = {key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in signature.inputs.items()}
    function = signature.function
    if not hasattr(function, "get_concrete_function"):
        function = tf.function(function)
    try:
        concrete = function.get_concrete_function(**specs)
    except Exception as error:
        wanted = ", ".join(f"{key}: {spec}" for key, spec in signature.inputs.items())
        raise ServableError(
            f"{where}: its function can't be made a graph for {wanted}: {raised(error, signature.function)}"
        ) from error
    outputs = concrete.structured_outputs
    if not isinstance(outputs, Mapping) or set(outputs) != set(signature.outputs):
        raise ServableError(f"{where}: as a graph its function answers {outputs}, declared are {signature.outputs}")
    if signature.method != "predict":
        _check_method(where, outputs)
    tracked = {id(variable.handle) for variable in variables_of(module).values()}
    untracked = [variable.name for variable in concrete.graph.variables if id(variable.handle) not in tracked]
    if untracked:
        raise LintError(
            f"[untracked-variable] {where} uses the variables {', '.join(untracked)}, which {type(module).__name__} "
            "does not track; make them attributes of it"
        )
    return concrete


def _check_method(where: str, outputs: Mapping[str, Any]) -> None:
    """Raises ServableError for outputs that TensorFlow Serving would refuse to make classes or values of."""
    for name, tensor in outputs.items():
        dtype, shapes, wanted = METHOD_SPECS[name]
        spec = _spec_of(tensor)
        fits = spec.shape in shapes if shapes else spec.shape is None or len(spec.shape) == 2  # noqa: PLR2004 - a matrix
        if spec.dtype != dtype or not fits:
            raise ServableError(f"{where}, output {name!r} is {spec}, {dtype} of shape {wanted} is needed")


def _check_written(servable: Servable, functions: Mapping[str, Any], written: Mapping[str, ServedSignature]) -> None:
    """Raises ServableError when the file does not say what the servable declares."""
    for name, signature in described(servable, functions).items():
        if written.get(name) != signature:
            raise ServableError(f"signature {name!r} was written as {written.get(name)}, declared is {signature}")


def _spec_of(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.dtype.name, None if tensor.shape.rank is None else tuple(tensor.shape.as_list()))


def _spec_of_info(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    dtype = BY_NUMBER.get(info.dtype)
    return TensorSpec(dtype.name if dtype else f"type {info.dtype}", sizes)
