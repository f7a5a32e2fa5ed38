"""Writes a servable as a SavedModel with exactly the signatures it declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

from tfserving.export.effects import traced_effects
from tfserving.export.errors import LintError, ServableError
from tfserving.export.findings import require_clean
from tfserving.export.graph import read_saved_model, serving_graph
from tfserving.export.manifest import ServedSignature
from tfserving.export.outputs import named_outputs
from tfserving.export.saved_objects import few
from tfserving.export.servable import EXAMPLES, Method, Servable, Signature, TensorSpec
from tfserving.export.tracking import trackables, variables_of
from tfserving.export.user_code import raised
from tfserving.foundation.tensors import BY_NUMBER, to_proto

METHODS: dict[str, Method] = {f"tensorflow/serving/{method}": method for method in get_args(Method)}
# The dtype and the shapes that TensorFlow Serving requires of the outputs of these methods.
METHOD_SPECS: dict[str, tuple[str, tuple[tuple[int | None, ...], ...], str]] = {
    "classes": ("string", (), "(batch, classes)"),
    "scores": ("float32", (), "(batch, classes)"),
    "outputs": ("float32", ((None,), (None, 1)), "(batch,) or (batch, 1)"),
}


def check_built(servable: Servable, before: Mapping[str, Any]) -> None:
    """Raise ServableError when calling the signatures created variables that did not exist `before`.

    Such a model was never built: its outputs come from new, untrained weights.
    """
    new = [path for path in variables_of(servable.module) if path not in before]
    if new:
        raise ServableError(
            f"{type(servable.module).__name__} was not built: its variables {few(new)} were created only when the "
            "export called it, so they have no trained values. In the builder, call it on example rows, "
            "model(examples), and then load or train its weights."
        )


def keyword_of(name: str, inputs: Collection[str]) -> str:
    """Return the keyword of TensorFlow's functions for the input `name`, one of `inputs`.

    The functions are methods, so no keyword can be `self`. Such an input gets a name that no other input has.
    """
    keyword = name
    while keyword == "self" or (keyword != name and keyword in inputs):
        keyword += "_"
    return keyword


def trace(servable: Servable, allow: Collection[str] = ()) -> dict[str, Any]:
    """Return a concrete function for every signature. It takes a dict with the declared inputs.

    Raises ServableError for a signature that can't be traced with an unknown batch size, whose outputs are not the
    declared ones, that changes state or draws random numbers (unless the rules `state` and `random` are ones to
    `allow`), or that uses variables which the module does not track.
    """
    return {name: _trace(name, signature, servable.module, allow) for name, signature in servable.signatures.items()}


def described(servable: Servable, functions: Mapping[str, Any]) -> dict[str, ServedSignature]:
    """Return the signatures of the traced `functions` of `servable`."""
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
    """Write the traced `functions` of `servable` to `folder`, and return the signatures that a server will read there.

    Only objects that the signatures use are written: no optimizer slots, metrics or training functions. The graph
    rejects inputs that don't match their signature's shapes.
    """
    import tensorflow as tf

    used = {id(handle) for function in functions.values() for handle in function.captured_inputs}
    # A Keras variable wraps the TensorFlow variable that a function captures. If the wrapper were saved, its value
    # would be restored into a copy that no function reads, and a session, as in TensorFlow Serving, would find none.
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
    except OSError:
        raise
    except Exception as error:
        kind = type(servable.module).__name__
        raise ServableError(f"TensorFlow can't save {kind}: {type(error).__name__}: {error}") from error
    _complete_signatures(servable, folder)
    written = read_signatures(folder)
    _check_written(servable, functions, written)
    return written


def _checked(function: Any, signature: Signature) -> Any:
    """Return the traced `function` with a check that its tensors have the shapes that `signature` declares.

    Operations rely on the shapes that a graph was made for: with another rank, a convolution crashes the process that
    serves it, also TensorFlow Serving. The check is outside the part that is compiled with XLA or frozen.
    """
    import tensorflow as tf

    keywords = {name: keyword_of(name, signature.inputs) for name in signature.inputs}

    def checked(**inputs: Any) -> Any:
        return function(
            {
                name: tf.ensure_shape(inputs[keywords[name]], spec.shape, f"check_{name}")
                for name, spec in signature.inputs.items()
            }
        )

    specs = {
        keywords[name]: tf.TensorSpec(spec.shape, spec.dtype, name=keywords[name])
        for name, spec in signature.inputs.items()
    }
    return tf.function(checked).get_concrete_function(**specs)


def _complete_signatures(servable: Servable, folder: Path) -> None:
    """Write the parts of signatures that `tf.saved_model.save` leaves out: names, methods, defaults, shared inputs.

    It writes every method as predict. It gives every signature a placeholder of its own for tf.Examples, but
    MultiInference, which calls several signatures with the same examples, requires that they share one
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
        for key in signature.inputs:
            if (keyword := keyword_of(key, signature.inputs)) != key:
                definition.inputs[key].CopyFrom(definition.inputs.pop(keyword))
        for key, value in signature.defaults.items():
            definition.defaults[key].CopyFrom(to_proto(value))
        if signature.method != "predict":
            own = definition.inputs[EXAMPLES].name
            shared = shared or own
            definition.inputs[EXAMPLES].name = shared
            _feed_instead(graph.graph_def, own, shared)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _feed_instead(graph_def: Any, old: str, new: str) -> None:
    """Connect all consumers of the placeholder of tensor `old` to that of `new`, and remove the old one."""
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
    """Return the signatures that a server finds in the SavedModel in `folder`. Raises ExportError."""
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
    """Return the tensor that a function captures when it uses `trackable`: a variable's handle, an asset's path."""
    for attribute in ("handle", "resource_handle", "asset_path"):
        if (resource := getattr(trackable, attribute, None)) is not None:
            return resource
    return None


def _trace(name: str, signature: Signature, module: Any, allow: Collection[str]) -> Any:
    import tensorflow as tf

    where = f"signature {name!r}"
    specs = {key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in signature.inputs.items()}
    refused: list[ServableError] = []

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def named(returned: Any) -> dict[str, Any]:
        try:
            return named_outputs(returned, signature.outputs, where)
        except ServableError as error:
            # TensorFlow changes the text of the error.
            refused.append(error)
            raise

    # A positional argument: an input may be called `self`.
    def served(inputs: Any) -> Any:
        return named(signature.call(inputs))

    try:
        if hasattr(signature.function, "get_concrete_function") and "self" not in specs:
            # A function for a single batch size fails only here, not when it is called.
            signature.function.get_concrete_function(**specs)
        concrete = tf.function(served).get_concrete_function(specs)
    except (Exception, SystemExit) as error:
        if refused:
            raise refused[0] from None
        wanted = ", ".join(f"{key}: {spec}" for key, spec in signature.inputs.items())
        raise ServableError(
            f"{where}: its function can't be traced with {wanted}: {raised(error, signature.function)}"
            f"{_stateful_layers(module)}"
        ) from error
    if signature.method != "predict":
        _check_method(where, concrete.structured_outputs)
    resources = {id(_resource(found)): path for path, found in trackables(module).items()}
    require_clean(traced_effects(name, concrete, resources), allow)
    _check_tracked(where, concrete, module)
    return concrete


def _stateful_layers(module: Any) -> str:
    """Return what to do when an error may come from layers that keep the state of a batch of fixed size; else ''."""
    names = [found.name for found in trackables(module).values() if getattr(found, "stateful", False) is True]
    if not names:
        return ""
    return (
        f"\n  {', '.join(names)} has stateful=True: it keeps the state of one batch of fixed size, and a request would "
        "change the response to the next one. Remove it, and make the state an input and an output "
        "(docs/lint.md#state)."
    )


def _check_tracked(where: str, function: Any, module: Any) -> None:
    """Raise LintError when a traced function uses variables or tables that `module` does not track."""
    tracked = {id(_resource(found)) for found in trackables(module).values()}
    variables = {id(variable.handle): variable.name for variable in function.graph.variables}
    untracked = [
        id(captured)
        for captured in function.captured_inputs
        if captured.dtype.name == "resource" and id(captured) not in tracked
    ]
    if not untracked:
        return
    named = sorted(variables[resource] for resource in untracked if resource in variables)
    used = [f"the variables {', '.join(named)}"] if named else []
    if len(named) < len(untracked):
        used.append("a table")
    kind = type(module).__name__
    raise LintError(
        f"[untracked-variable] {where} uses {' and '.join(used)}, which {kind} does not track. Make them attributes of "
        f"the {kind} or of a layer or module in it, or put them into a list or dict that is an attribute."
    )


def _check_method(where: str, outputs: Mapping[str, Any]) -> None:
    """Raise ServableError for outputs that TensorFlow Serving can't convert to classes or values."""
    for name, tensor in outputs.items():
        dtype, shapes, expected = METHOD_SPECS[name]
        spec = _spec_of(tensor)
        # An unknown shape is checked when the live model runs.
        fits = spec.shape is None or (spec.shape in shapes if shapes else len(spec.shape) == 2)  # noqa: PLR2004 - matrix
        if spec.dtype != dtype or not fits:
            raise ServableError(f"{where}, output {name!r}: got {spec}, expected {dtype} {expected}")


def _check_written(servable: Servable, functions: Mapping[str, Any], written: Mapping[str, ServedSignature]) -> None:
    """Raise ServableError when the written signatures differ from the declared ones."""
    for name, signature in described(servable, functions).items():
        if name not in written:
            raise ServableError(f"signature {name!r} was not written")
        actual = written[name]
        for kind, expected, found in (
            ("input", signature.inputs, actual.inputs),
            ("output", signature.outputs, actual.outputs),
        ):
            for key in expected.keys() | found.keys():
                if key not in expected or key not in found or not found[key].is_a(expected[key]):
                    raise ServableError(
                        f"signature {name!r}, {kind} {key!r}: it was written as {found.get(key, 'nothing')}, expected "
                        f"{expected.get(key, 'nothing')}"
                    )
        if (actual.method, actual.optional) != (signature.method, signature.optional):
            raise ServableError(
                f"signature {name!r}: it was written as {actual.method} with {_optional(actual)}, expected "
                f"{signature.method} with {_optional(signature)}"
            )


def _optional(signature: ServedSignature) -> str:
    return f"the optional inputs {', '.join(signature.optional)}" if signature.optional else "no optional inputs"


def _spec_of(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.dtype.name, None if tensor.shape.rank is None else tuple(tensor.shape.as_list()))


def _spec_of_info(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    dtype = BY_NUMBER.get(info.dtype)
    return TensorSpec(dtype.name if dtype else f"type {info.dtype}", sizes)
