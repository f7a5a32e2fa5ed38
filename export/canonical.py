"""A digest of what a graph computes, independent of the names that TensorFlow, Keras and chance give to its parts.

Two exports of the same model differ in such names: functions and layers are numbered through a process, and tables have
random names. Here every part is named by the order in which a walk from the signatures' outputs visits it. So two
graphs have the same digest only when they are the same except for names. The key of a variable is such a name, too: the
digest contains the value that it is restored to. Only the parts that a server runs count: operations that save
variables, functions that nothing calls, and parts that only `tf.saved_model.load` reads are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tfserving.export.graph import read_saved_model, serving_graph
from tfserving.export.variables import Variables
from tfserving.export.weights import has_same_bytes

# Names of resources, and of functions that may replace each other. Parts with the same name belong together.
_SHARED = ("shared_name", "api_implements")
# The gradient of a call, by a name that counts calls (nothing that is served has gradients), and the names of variables
# and arguments.
_LEFT_OUT = ("_gradient_op_type", "_user_specified_name", "debug_name")
# Its second input contains the keys of variables.
_RESTORE = "RestoreV2"
# Operations that must run on the device of another one, by its name.
_PLACED = "_class"
_PLACED_WITH = b"loc:@"

Add = Callable[[object], None]


def is_same_graph(old: Path, new: Path) -> bool:
    """Return whether two SavedModels have the same signatures, graph and variables, apart from names.

    Graphs that compute the same in another order may count as different. Raises ExportError when one can't be read.
    """
    with Variables(old) as before, Variables(new) as after:
        (digest, keys), (new_digest, new_keys) = (_digest(old, before), _digest(new, after))
        # Checksums have only 32 bits, so equal ones don't prove equality.
        return digest == new_digest and all(
            has_same_bytes(before, after, (before[key], after[new_key]))
            for key, new_key in zip(keys, new_keys, strict=True)
        )


def _digest(version_folder: Path, variables: Variables) -> tuple[str, list[str]]:
    """Return the SHA-256 of a graph, with checksums of its variables, and their keys in the graph's order."""
    graph = serving_graph(read_saved_model(version_folder), version_folder)
    sha256 = hashlib.sha256()

    def add(part: object) -> None:
        data = part if isinstance(part, bytes) else repr(part).encode()
        sha256.update(len(data).to_bytes(8, "little") + data)

    canonical = _Canonical(graph, variables, add)
    canonical.add_all()
    return sha256.hexdigest(), canonical.keys


class _Canonical:
    """Adds the parts of a meta graph to a digest, in an order that depends on no name."""

    def __init__(self, graph: Any, variables: Variables, add: Add) -> None:
        self.keys: list[str] = []
        self._graph = graph
        self._variables = variables
        self._add = add
        self._library = {function.signature.name: function for function in graph.graph_def.library.function}
        # In the order of the walk.
        self._functions: dict[str, int] = {}
        self._shared: dict[tuple[str, bytes], int] = {}

    def add_all(self) -> None:
        """Add everything that a server reads from the graph."""
        graph, definition = self._graph, self._graph.graph_def
        for info in (sorted(graph.meta_info_def.tags), graph.meta_info_def.tensorflow_version):
            self._add(info)
        for message in (definition.versions, *graph.asset_file_def):
            self._add(message.SerializeToString(deterministic=True))
        roots: list[str] = []
        for name, signature in sorted(graph.signature_def.items()):
            # Its tensors by name, as clients receive them in the metadata.
            self._add(name)
            self._add(signature.SerializeToString(deterministic=True))
            for infos in (signature.outputs, signature.inputs):
                roots += (info.name for _, info in sorted(infos.items()))
        saver = graph.saver_def
        roots += (saver.restore_op_name, saver.filename_tensor_name)
        for name, collection in sorted(graph.collection_def.items()):
            self._add(name)
            if collection.HasField("node_list"):
                roots += collection.node_list.value
            else:
                self._add(collection.SerializeToString(deterministic=True))
        self._scope(definition.node, roots)
        for name in _growing(self._functions):
            self._function(name)
        for gradient in definition.library.gradient:
            if gradient.function_name in self._functions:
                self._add((self._name(gradient.function_name), self._name(gradient.gradient_func)))

    def _function(self, name: str) -> None:
        function = self._library[name]
        signature = function.signature
        self._add(len(signature.input_arg))
        for argument in (*signature.input_arg, *signature.output_arg):
            nameless = type(argument)()
            nameless.CopyFrom(argument)
            nameless.ClearField("name")
            nameless.ClearField("handle_data")
            self._add(nameless.SerializeToString(deterministic=True))
        for attribute in signature.attr:
            self._add(attribute.SerializeToString(deterministic=True))
        self._add(signature.is_stateful)
        for index, attributes in sorted(function.arg_attr.items()):
            self._add(index)
            self._attributes(attributes.attr, {})
        self._add(sorted(function.resource_arg_unique_id.items()))
        roots = [function.ret[argument.name] for argument in signature.output_arg]
        waited = [f"^{function.control_ret[name]}" for name in signature.control_output]
        arguments = {argument.name: -1 - number for number, argument in enumerate(signature.input_arg)}
        # Operations with side effects run in a function even if no output needs them.
        others = [node.name for node in function.node_def]
        self._scope(function.node_def, [*roots, *waited], arguments, others)
        self._attributes(function.attr, {})

    def _scope(
        self, nodes: Iterable[Any], roots: list[str], arguments: Mapping[str, int] = {}, others: Iterable[str] = ()
    ) -> None:
        """Add the nodes of the graph, or of a function with `arguments`: those that lead to `roots`, then `others`."""
        by_name = {node.name: node for node in nodes}
        numbers: dict[str, int] = dict(arguments)
        order: list[Any] = []
        for root in (*roots, *others):
            waiting = [_node(root)]
            while waiting:
                name = waiting.pop()
                if name in numbers or name not in by_name:
                    continue
                numbers[name] = len(order)
                order.append(by_name[name])
                waiting += (_node(source) for source in reversed(by_name[name].input))
        self._add([_numbered(root, numbers) for root in roots])
        with_keys = {_node(node.input[1]) for node in order if node.op == _RESTORE}
        for node in order:
            self._add((self._name(node.op), node.device, [_numbered(source, numbers) for source in node.input]))
            if node.name in with_keys and node.op == "Const":
                self._values(node.attr["value"].tensor.string_val)
            else:
                self._attributes(node.attr, numbers)

    def _values(self, keys: Iterable[bytes]) -> None:
        """Add the variables that are restored from these keys."""
        for key in keys:
            variable = self._variables.get(key.decode(errors="backslashreplace"))
            self._add(variable.content if variable else key)
            self.keys += [variable.key] if variable else []

    def _attributes(self, attributes: Mapping[str, Any], numbers: Mapping[str, int]) -> None:
        self._add(len(attributes))
        for key, value in sorted(attributes.items()):
            if key in _LEFT_OUT:
                continue
            self._add(key)
            if key in _SHARED and value.s:
                self._add(self._shared.setdefault((key, value.s), len(self._shared)))
            elif key == _PLACED:
                self._add([_placed(place, numbers) for place in value.list.s])
            elif value.HasField("func") or value.list.func:
                for called in (value.func,) if value.HasField("func") else value.list.func:
                    self._add(self._name(called.name))
                    self._attributes(called.attr, numbers)
            else:
                self._add(value.SerializeToString(deterministic=True))

    def _name(self, operation: str) -> object:
        """Return the number of a function, or the name of one of TensorFlow's operations."""
        return self._functions.setdefault(operation, len(self._functions)) if operation in self._library else operation


def _growing(functions: Mapping[str, int]) -> Iterator[str]:
    """Yield the functions visited so far, and those that are visited meanwhile."""
    done = 0
    while done < len(functions):
        for name in list(functions)[done:]:
            done += 1
            yield name


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _numbered(tensor: str, numbers: Mapping[str, int]) -> tuple[str, object, str]:
    """Return a tensor or control input with the number of its node instead of the name."""
    name, _, output = tensor.removeprefix("^").partition(":")
    return "^" if tensor.startswith("^") else "", numbers.get(name, name), "" if output == "0" else output


def _placed(place: bytes, numbers: Mapping[str, int]) -> object:
    return numbers.get(place.removeprefix(_PLACED_WITH).decode(errors="replace"), place)
