"""Writes a servable as a SavedModel with exactly the signatures it declares."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from clients.messages import SavedModel
from clients.tensors import BY_NUMBER
from export.errors import ServableError
from export.manifest import ServedSignature
from export.servable import Method, Servable, Signature, TensorSpec

METHODS: dict[str, Method] = {f"tensorflow/serving/{method}": method for method in get_args(Method)}
# What TensorFlow Serving requires of the outputs of these methods: dtype, and the possible shapes.
METHOD_SPECS: dict[str, tuple[str, tuple[tuple[int | None, ...], ...], str]] = {
    "classes": ("string", (), "(batch, classes)"),
    "scores": ("float32", (), "(batch, classes)"),
    "outputs": ("float32", ((None,), (None, 1)), "(batch,) or (batch, 1)"),
}


def variables_of(module: Any) -> dict[str, Any]:
    """The variables that the Keras model or `tf.Module` tracks, by their path in it (`encoder.kernel`).

    Raises ServableError when TensorFlow can't track it.
    """
    return {path: found for path, found in _trackables(module).items() if hasattr(found, "handle")}


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


def write_savedmodel(servable: Servable, functions: Mapping[str, Any], folder: Path) -> dict[str, ServedSignature]:
    """Writes the traced `functions` of `servable` into `folder`, and answers what a server will read there.

    Only what the signatures use is written: optimizer slots, metrics and training functions stay behind.
    """
    import tensorflow as tf

    used = {id(handle) for function in functions.values() for handle in function.captured_inputs}
    # A Keras variable wraps the TensorFlow variable that a function captures. Were the wrapper saved, its value would
    # be restored into a copy that no function reads, and a session, TensorFlow Serving's too, would find no value.
    variables = {id(variable.handle): variable for function in functions.values() for variable in function.variables}
    root = tf.Module()
    root.used = {
        path: variables.get(id(_resource(found)), found)
        for path, found in _trackables(servable.module).items()
        if id(_resource(found)) in used
    }
    try:
        tf.saved_model.save(
            root,
            str(folder),
            signatures=dict(functions),
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
    except (AssertionError, tf.errors.OpError, TypeError, ValueError) as error:
        raise ServableError(f"TensorFlow can't save {type(servable.module).__name__}: {error}") from error
    _write_methods(servable, folder)
    written = read_signatures(folder)
    _check_written(servable, functions, written)
    return written


def _write_methods(servable: Servable, folder: Path) -> None:
    """Gives the signatures their methods' names; `tf.saved_model.save` calls every one of them predict."""
    names = {method: long for long, method in METHODS.items()}
    others = {
        name: signature.method for name, signature in servable.signatures.items() if signature.method != "predict"
    }
    if not others:
        return
    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    for graph in saved.meta_graphs:
        for name, method in others.items():
            graph.signature_def[name].method_name = names[method]
    path.write_bytes(saved.SerializeToString(deterministic=True))


def read_signatures(folder: Path) -> dict[str, ServedSignature]:
    """The signatures that a server finds in the SavedModel in `folder`."""
    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (graph,) = (graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
    return {
        name: ServedSignature(
            method=METHODS[signature.method_name],
            inputs={key: _spec_of_info(info) for key, info in sorted(signature.inputs.items())},
            outputs={key: _spec_of_info(info) for key, info in sorted(signature.outputs.items())},
        )
        for name, signature in sorted(graph.signature_def.items())
        if signature.method_name in METHODS
    }


def _trackables(module: Any) -> dict[str, Any]:
    """Everything that `module` tracks, itself included, by its shortest path."""
    import tensorflow as tf

    queue: deque[tuple[str, Any]] = deque([("", module)])
    found: dict[str, Any] = {}
    seen = {id(module)}
    while queue:
        path, trackable = queue.popleft()
        try:
            children = tf.train.TrackableView.children(trackable)
        except AttributeError:
            raise ServableError(
                f"module is a {type(module).__name__}, which TensorFlow can't save; a Keras model or a tf.Module is "
                "needed"
            ) from None
        found[path] = trackable
        for name, child in children.items():
            if id(child) not in seen:
                seen.add(id(child))
                queue.append((f"{path}.{name}" if path else name, child))
    return found


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
            f"{where}: its function can't be made a graph for {wanted}: {type(error).__name__}: {error}"
        ) from error
    outputs = concrete.structured_outputs
    if not isinstance(outputs, Mapping) or set(outputs) != set(signature.outputs):
        raise ServableError(f"{where}: as a graph its function answers {outputs}, declared are {signature.outputs}")
    for output, tensor in outputs.items():
        if tensor.shape.rank is not None and tensor.shape[:1].as_list() != [None]:
            raise ServableError(
                f"{where}, output {output!r}: its shape {tuple(tensor.shape)} fixes the batch, the first dimension; "
                "None is needed there (does the function reshape to a fixed size, or answer something that no row has?)"
            )
    if signature.method != "predict":
        _check_method(where, outputs)
    tracked = {id(variable.handle) for variable in variables_of(module).values()}
    untracked = [variable.name for variable in concrete.graph.variables if id(variable.handle) not in tracked]
    if untracked:
        raise ServableError(
            f"{where} uses the variables {', '.join(untracked)}, which {type(module).__name__} does not track; make "
            "them attributes of it"
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
    declared = {
        name: ServedSignature(
            method=signature.method,
            inputs=dict(signature.inputs),
            outputs={key: _spec_of(functions[name].structured_outputs[key]) for key in signature.outputs},
        )
        for name, signature in servable.signatures.items()
    }
    for name, signature in declared.items():
        if written.get(name) != signature:
            raise ServableError(f"signature {name!r} was written as {written.get(name)}, declared is {signature}")


def _spec_of(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.dtype.name, None if tensor.shape.rank is None else tuple(tensor.shape.as_list()))


def _spec_of_info(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    return TensorSpec(BY_NUMBER[info.dtype].name, sizes)
