"""Loads the functions of any SavedModel, so that a builder can give them better signatures without their source."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserving.export.errors import BuilderError, ExportError
from tfserving.export.graph import has_functions, read_graph, read_saved_model, serving_graph
from tfserving.export.manifest import ServedSignature
from tfserving.export.savedmodel import read_signatures
from tfserving.foundation.golden import SAVED_MODEL
from tfserving.foundation.graph import Node

# Attributes with the sizes of tensors in a graph. TensorFlow infers them again when they are missing.
NOTED = ("_output_shapes", "_input_shapes", "_shape")

# Reference variables and tables: `tf.saved_model.load` loads them, but their contents can't be saved again.
KEPT_BY_SESSIONS = re.compile(r"Variable(V2)?|\w*HashTable\w*")


@dataclass(frozen=True)
class Existing:
    """A loaded SavedModel: the `module` that holds its variables, its signatures, and their functions.

    `functions[name](**inputs)` returns a dict of tensors, by the names of the SavedModel. Inputs may also be passed by
    position, in the order of `signatures[name].inputs`. That order is alphabetical: a SavedModel keeps no other.
    """

    module: Any
    signatures: Mapping[str, ServedSignature]
    functions: Mapping[str, Callable[..., Mapping[str, Any]]]


def load_existing(path: str | Path, *, any_batch: bool = False) -> Existing:
    """Load the SavedModel in the folder `path`.

    With `any_batch`, a fixed first dimension of an input becomes None. That works if the graph itself doesn't depend on
    the batch size. The export runs several sizes, and reports an error if it does.

    Raises BuilderError when the SavedModel can't be loaded or has no signatures.
    """
    import tensorflow as tf

    path = Path(path)
    try:
        signatures = read_signatures(path)
    except ExportError as error:
        raise BuilderError(str(error)) from None
    if not signatures:
        raise BuilderError(
            f"{path} has no signature, so it can't be called. A Keras model that was not built has none."
        )
    if lost := _lost(path, signatures):
        raise BuilderError(
            f"{path} was written by TensorFlow 1, and TensorFlow can't save the contents of its {lost} again. "
            f"Write `saved_model: {path}` in models.yaml to serve it as it is."
        )
    source = path
    folder = tempfile.TemporaryDirectory()
    if any_batch and any(_fixed(signature) for signature in signatures.values()):
        source = Path(folder.name) / "any_batch"
        _copy_for_any_batch(path, source)
    try:
        module = tf.saved_model.load(str(source))
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise BuilderError(f"{path} can't be loaded: {type(error).__name__}: {error}") from None
    # Its assets are read from this folder when it is saved again.
    module.loaded_from = folder
    functions = {name: _call(module, name, signature.inputs) for name, signature in signatures.items()}
    return Existing(module, read_signatures(source), functions)


def _call(module: Any, name: str, inputs: Mapping[str, Any]) -> Callable[..., Mapping[str, Any]]:
    names = list(inputs)
    where = f"functions[{name!r}] takes {', '.join(map(repr, names))}"

    # The signatures hold weak references to the module's variables. This function keeps the module alive.
    def call(*tensors: Any, **named: Any) -> Mapping[str, Any]:
        if len(tensors) > len(names):
            raise TypeError(f"{where}; got {len(tensors)} inputs by position")
        given = dict(zip(names, tensors, strict=False))
        for wrong, why in ((named.keys() - {*names}, "not an input"), (named.keys() & given.keys(), "given twice")):
            if wrong:
                raise TypeError(f"{where}; {', '.join(map(repr, sorted(wrong)))} is {why}")
        function = module.signatures[name]
        _, keywords = function.structured_input_signature
        # In a version that this toolkit wrote, an input `self` has another keyword.
        other = next((keyword for keyword in keywords if keyword not in names), "self")
        values = {key if key in keywords else other: value for key, value in (given | named).items()}
        if "self" in values:
            # In one that TensorFlow 1 wrote, the usual call takes `self` itself.
            return function._call_impl((), values)  # type: ignore[no-any-return]
        return function(**values)  # type: ignore[no-any-return]

    return call


def _lost(path: Path, signatures: Iterable[str]) -> Node | None:
    """Return a node of a graph of TensorFlow 1 whose value would be lost when the graph is saved again; else None."""
    if has_functions(path):
        return None
    graph = read_graph(path)
    nodes = (node for name in signatures for node in graph.nodes(name))
    return next((node for node in nodes if KEPT_BY_SESSIONS.fullmatch(node.op)), None)


def _fixed(signature: ServedSignature) -> bool:
    return any(spec.shape and spec.shape[0] is not None for spec in signature.inputs.values())


def _copy_for_any_batch(path: Path, copy: Path) -> None:
    """Copy the SavedModel in `path` to the folder `copy`, with inputs of any batch size."""
    saved = read_saved_model(path)
    graph = serving_graph(saved, path)
    inputs: set[str] = set()
    for signature in graph.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            _free(info.tensor_shape)
        inputs |= {info.name.partition(":")[0] for info in signature.inputs.values()}
    for node in graph.graph_def.node:
        if node.name in inputs:
            _free(node.attr["shape"].shape)
        _forget(node.attr)
    for function in graph.graph_def.library.function:
        for one in (function, *function.arg_attr.values(), *function.node_def):
            _forget(one.attr)
    for function in graph.object_graph_def.concrete_functions.values():
        for value in (function.canonicalized_input_signature, function.output_signature):
            for spec in _tensor_specs(value):
                _free(spec.shape)
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(SAVED_MODEL, "assets.extra", "fingerprint.pb"))
    (copy / SAVED_MODEL).write_bytes(saved.SerializeToString(deterministic=True))


def _free(shape: Any) -> None:
    if shape.dim and not shape.unknown_rank:
        shape.dim[0].size = -1


def _forget(attributes: Any) -> None:
    for name in NOTED:
        attributes.pop(name, None)


def _tensor_specs(value: Any) -> Iterator[Any]:
    """Yield every description of a tensor in a StructuredValue."""
    kind = value.WhichOneof("kind")
    if kind == "tensor_spec_value":
        yield value.tensor_spec_value
    elif kind == "bounded_tensor_spec_value":
        yield value.bounded_tensor_spec_value
    elif kind in ("tuple_value", "list_value"):
        for item in getattr(value, kind).values:
            yield from _tensor_specs(item)
    elif kind == "dict_value":
        for item in value.dict_value.fields.values():
            yield from _tensor_specs(item)
