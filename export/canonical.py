"""What a graph computes, apart from the names that TensorFlow, Keras and chance give to its parts.

Two exports of the same model differ in such names: functions are numbered through a process, layers too, and tables
have random ones. Here everything is named by when it is first met on the way from the signatures' outputs, so two
graphs have the same digest only when they are the same but for names. What a server runs is all that counts: functions
that nothing calls, and what only `tf.saved_model.load` reads, are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tfserving.export.graph import read_saved_model, serving_graph

# Names of resources, and of functions that may replace one another: what has the same one belongs together.
_SHARED = ("shared_name", "api_implements")
# Which gradient a call has, by a name that counts calls (nothing that is served has gradients), and what an argument is
# called, which counts captured ones.
_LEFT_OUT = ("_gradient_op_type", "_user_specified_name")
# Operations that are to run where another one does, by its name.
_PLACED = "_class"
_PLACED_WITH = b"loc:@"

Tell = Callable[[object], None]


def graph_digest(version_folder: Path) -> str:
    """SHA-256 of what the SavedModel's graph computes, and of its signatures. Raises ExportError when it can't be read.

    Equal digests mean equal graphs. Graphs that compute the same in another order may have different ones.
    """
    graph = serving_graph(read_saved_model(version_folder), version_folder)
    sha256 = hashlib.sha256()

    def tell(part: object) -> None:
        data = part if isinstance(part, bytes) else repr(part).encode()
        sha256.update(len(data).to_bytes(8, "little") + data)

    _Canonical(graph, tell).tell_all()
    return sha256.hexdigest()


class _Canonical:
    """A meta graph, told part by part in an order that depends on no name."""

    def __init__(self, graph: Any, tell: Tell) -> None:
        self._graph = graph
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
        roots += (saver.restore_op_name, saver.save_tensor_name, saver.filename_tensor_name)
        for name, collection in sorted(graph.collection_def.items()):
            self._tell(name)
            if collection.HasField("node_list"):
                roots += collection.node_list.value
            else:
                self._tell(collection.SerializeToString(deterministic=True))
        self._scope(definition.node, roots, {})
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
        self._scope(function.node_def, [*roots, *waited], arguments)
        self._attributes(function.attr, {})

    def _scope(self, nodes: Iterable[Any], roots: list[str], arguments: Mapping[str, int]) -> None:
        """Tells the nodes of the graph, or of a function with `arguments`, on the way from `roots`; then the others."""
        by_name = {node.name: node for node in nodes}
        numbers: dict[str, int] = dict(arguments)
        order: list[Any] = []
        for root in (*roots, *by_name):
            waiting = [_node(root)]
            while waiting:
                name = waiting.pop()
                if name in numbers or name not in by_name:
                    continue
                numbers[name] = len(order)
                order.append(by_name[name])
                waiting += (_node(source) for source in reversed(by_name[name].input))
        self._tell([_numbered(root, numbers) for root in roots])
        for node in order:
            self._tell((self._name(node.op), node.device, [_numbered(source, numbers) for source in node.input]))
            self._attributes(node.attr, numbers)

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
