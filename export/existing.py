"""SavedModels that something else wrote: their functions, to be given better signatures without their source."""

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

# What TensorFlow notes about the sizes of tensors in a graph, and works out anew when it isn't there.
NOTED = ("_output_shapes", "_input_shapes", "_shape")

# Variables that are references, and tables: `tf.saved_model.load` has them, with nothing that saves what is in them.
KEPT_BY_SESSIONS = re.compile(r"Variable(V2)?|\w*HashTable\w*")


@dataclass(frozen=True)
class Existing:
    """A SavedModel: the `module` that holds its variables, what its signatures say, and their functions.

    `functions[name](**inputs)` returns a dict of tensors, with the names that the SavedModel has. Inputs may be given
    by position, too, in the order of `signatures[name].inputs`: that of their names, as a SavedModel keeps no other.
    """

    module: Any
    signatures: Mapping[str, ServedSignature]
    functions: Mapping[str, Callable[..., Mapping[str, Any]]]


def load_existing(path: str | Path, *, any_batch: bool = False) -> Existing:
    """The SavedModel in the folder `path`.

    With `any_batch` the first dimension of every input that has a fixed one becomes None. That works where the graph
    itself doesn't insist on its batch; the export asks several sizes, and says so where it does.

    Raises BuilderError when there is no SavedModel that can be loaded, or it has no signatures.
    """
    import tensorflow as tf

    path = Path(path)
    try:
        signatures = read_signatures(path)
    except ExportError as error:
        raise BuilderError(str(error)) from None
    if not signatures:
        raise BuilderError(f"{path} has no signature, so nothing says how to call it (was the model built when saved?)")
    if lost := _lost(path, signatures):
        raise BuilderError(
            f"{path} was written by TensorFlow 1, and TensorFlow can't save its {lost} again with a value; "
            f"`saved_model: {path}` in models.yaml serves it as it is"
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
    # Its assets are read from there when it is saved again.
    module.loaded_from = folder
    functions = {name: _call(module, name, signature.inputs) for name, signature in signatures.items()}
    return Existing(module, read_signatures(source), functions)


def _call(module: Any, name: str, inputs: Mapping[str, Any]) -> Callable[..., Mapping[str, Any]]:
    names = list(inputs)
    where = f"functions[{name!r}] takes {', '.join(map(repr, names))}"

    # The signatures know the module's variables only weakly, this knows the module.
    def call(*tensors: Any, **named: Any) -> Mapping[str, Any]:
        if len(tensors) > len(names):
            raise TypeError(f"{where}; it was given {len(tensors)} inputs by position")
        given = dict(zip(names, tensors, strict=False))
        for wrong, why in ((named.keys() - {*names}, "not an input"), (named.keys() & given.keys(), "given twice")):
            if wrong:
                raise TypeError(f"{where}; {', '.join(map(repr, sorted(wrong)))} is {why}")
        function = module.signatures[name]
        _, keywords = function.structured_input_signature
        # An input `self` of a version that this toolkit wrote has another keyword.
        other = next((keyword for keyword in keywords if keyword not in names), "self")
        values = {key if key in keywords else other: value for key, value in (given | named).items()}
        if "self" in values:
            # One that TensorFlow 1 wrote can't be called in the usual way, whose first argument is called so.
            return function._call_impl((), values)  # type: ignore[no-any-return]
        return function(**values)  # type: ignore[no-any-return]

    return call


def _lost(path: Path, signatures: Iterable[str]) -> Node | None:
    """What keeps a value of a graph that TensorFlow 1 wrote, and would have none when it is saved again."""
    if has_functions(path):
        return None
    graph = read_graph(path)
    nodes = (node for name in signatures for node in graph.nodes(name))
    return next((node for node in nodes if KEPT_BY_SESSIONS.fullmatch(node.op)), None)


def _fixed(signature: ServedSignature) -> bool:
    return any(spec.shape and spec.shape[0] is not None for spec in signature.inputs.values())


def _copy_for_any_batch(path: Path, copy: Path) -> None:
    """Copies the SavedModel in `path` to the folder `copy`, with inputs that take any batch."""
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
    """Every description of a tensor in a StructuredValue."""
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
