"""What a graph computes, apart from the names that TensorFlow, Keras and chance give to its parts.

Two exports of the same model differ in such names: functions are numbered through a process, layers too, and tables
have random ones. Here everything is named by when it is first met on the way from the signatures' outputs, so two
graphs have the same digest only when they are the same but for names. A variable's key is such a name, too: what counts
is the value that it is restored to. Only what a server runs counts: what saves variables, functions that nothing calls,
and what only `tf.saved_model.load` reads are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tfserving.export.graph import read_saved_model, serving_graph
from tfserving.export.variables import Variables
from tfserving.export.weights import has_same_bytes

# Names of resources, and of functions that may replace one another: what has the same one belongs together.
_SHARED = ("shared_name", "api_implements")
# Which gradient a call has, by a name that counts calls (nothing that is served has gradients), and what a variable or
# an argument is called.
_LEFT_OUT = ("_gradient_op_type", "_user_specified_name", "debug_name")
# Its second input has the keys of variables.
_RESTORE = "RestoreV2"
# Operations that are to run where another one does, by its name.
_PLACED = "_class"
_PLACED_WITH = b"loc:@"

Tell = Callable[[object], None]


def is_same_graph(old: Path, new: Path) -> bool:
    """Whether two SavedModels have the same signatures, graph and variables, apart from names.

    Graphs that compute the same in another order may count as different. Raises ExportError when one can't be read.
    """
    with Variables(old) as before, Variables(new) as after:
        (digest, keys), (new_digest, new_keys) = (_digest(old, before), _digest(new, after))
        # Checksums have 32 bits only.
        return digest == new_digest and all(
            has_same_bytes(before, after, (before[key], after[new_key]))
            for key, new_key in zip(keys, new_keys, strict=True)
        )


def _digest(version_folder: Path, variables: Variables) -> tuple[str, list[str]]:
    """SHA-256 of what a graph computes, with checksums of its variables, and their keys in the graph's order."""
    graph = serving_graph(read_saved_model(version_folder), version_folder)
    sha256 = hashlib.sha256()

    def tell(part: object) -> None:
        data = part if isinstance(part, bytes) else repr(part).encode()
        sha256.update(len(data).to_bytes(8, "little") + data)

    canonical = _Canonical(graph, variables, tell)
    canonical.tell_all()
    return sha256.hexdigest(), canonical.keys


class _Canonical:
    """A meta graph, told part by part in an order that depends on no name."""

    def __init__(self, graph: Any, variables: Variables, tell: Tell) -> None:
        self.keys: list[str] = []
        self._graph = graph
        self._variables = variables
        self._tell = tell
        self._library = {function.signature.name: function for function in graph.graph_def.library.function}
        # In the order in which they are met.
        self._functions: dict[str, int] = {}
        self._shared: dict[tuple[str, bytes], int] = {}

    def tell_all(self) -> None:
        """Tells everything that a server sees of the graph."""
        graph, definition = self._graph, self._graph.graph_def
        for info in (sorted(graph.meta_info_def.tags), graph.meta_info_def.tensorflow_version):
            self._tell(info)
        for message in (definition.versions, *graph.asset_file_def):
            self._tell(message.SerializeToString(deterministic=True))
        roots: list[str] = []
        for name, signature in sorted(graph.signature_def.items()):
            # Its tensors by name, as clients get them in the metadata.
            self._tell(name)
            self._tell(signature.SerializeToString(deterministic=True))
            for infos in (signature.outputs, signature.inputs):
                roots += (info.name for _, info in sorted(infos.items()))
        saver = graph.saver_def
        roots += (saver.restore_op_name, saver.filename_tensor_name)
        for name, collection in sorted(graph.collection_def.items()):
            self._tell(name)
            if collection.HasField("node_list"):
                roots += collection.node_list.value
            else:
                self._tell(collection.SerializeToString(deterministic=True))
        self._scope(definition.node, roots)
        for name in _growing(self._functions):
            self._function(name)
        for gradient in definition.library.gradient:
            if gradient.function_name in self._functions:
                self._tell((self._name(gradient.function_name), self._name(gradient.gradient_func)))

    def _function(self, name: str) -> None:
        function = self._library[name]
        signature = function.signature
        self._tell(len(signature.input_arg))
        for argument in (*signature.input_arg, *signature.output_arg):
            nameless = type(argument)()
            nameless.CopyFrom(argument)
            nameless.ClearField("name")
            nameless.ClearField("handle_data")
            self._tell(nameless.SerializeToString(deterministic=True))
        for attribute in signature.attr:
            self._tell(attribute.SerializeToString(deterministic=True))
        self._tell(signature.is_stateful)
        for index, attributes in sorted(function.arg_attr.items()):
            self._tell(index)
            self._attributes(attributes.attr, {})
        self._tell(sorted(function.resource_arg_unique_id.items()))
        roots = [function.ret[argument.name] for argument in signature.output_arg]
        waited = [f"^{function.control_ret[name]}" for name in signature.control_output]
        arguments = {argument.name: -1 - number for number, argument in enumerate(signature.input_arg)}
        # Operations with side effects run in a function, whoever needs them.
        others = [node.name for node in function.node_def]
        self._scope(function.node_def, [*roots, *waited], arguments, others)
        self._attributes(function.attr, {})

    def _scope(
        self, nodes: Iterable[Any], roots: list[str], arguments: Mapping[str, int] = {}, others: Iterable[str] = ()
    ) -> None:
        """Tells the nodes of the graph, or of a function with `arguments`: what leads to `roots`, then `others`."""
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
        self._tell([_numbered(root, numbers) for root in roots])
        with_keys = {_node(node.input[1]) for node in order if node.op == _RESTORE}
        for node in order:
            self._tell((self._name(node.op), node.device, [_numbered(source, numbers) for source in node.input]))
            if node.name in with_keys and node.op == "Const":
                self._values(node.attr["value"].tensor.string_val)
            else:
                self._attributes(node.attr, numbers)

    def _values(self, keys: Iterable[bytes]) -> None:
        """Tells the variables that are restored from these keys."""
        for key in keys:
            variable = self._variables.get(key.decode(errors="backslashreplace"))
            self._tell(variable.content if variable else key)
            self.keys += [variable.key] if variable else []

    def _attributes(self, attributes: Mapping[str, Any], numbers: Mapping[str, int]) -> None:
        self._tell(len(attributes))
        for key, value in sorted(attributes.items()):
            if key in _LEFT_OUT:
                continue
            self._tell(key)
            if key in _SHARED and value.s:
                self._tell(self._shared.setdefault((key, value.s), len(self._shared)))
            elif key == _PLACED:
                self._tell([_placed(place, numbers) for place in value.list.s])
            elif value.HasField("func") or value.list.func:
                for called in (value.func,) if value.HasField("func") else value.list.func:
                    self._tell(self._name(called.name))
                    self._attributes(called.attr, numbers)
            else:
                self._tell(value.SerializeToString(deterministic=True))

    def _name(self, operation: str) -> object:
        """The number of a function; the name of anything else, which TensorFlow has."""
        return self._functions.setdefault(operation, len(self._functions)) if operation in self._library else operation


def _growing(functions: Mapping[str, int]) -> Iterator[str]:
    """The functions met so far, and those that are met on the way."""
    done = 0
    while done < len(functions):
        for name in list(functions)[done:]:
            done += 1
            yield name


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _numbered(tensor: str, numbers: Mapping[str, int]) -> tuple[str, object, str]:
    """A tensor or control input with its node's number for the name."""
    name, _, output = tensor.removeprefix("^").partition(":")
    return "^" if tensor.startswith("^") else "", numbers.get(name, name), "" if output == "0" else output


def _placed(place: bytes, numbers: Mapping[str, int]) -> object:
    return numbers.get(place.removeprefix(_PLACED_WITH).decode(errors="replace"), place)
