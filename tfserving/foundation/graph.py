"""What a signature's graph does, read from a SavedModel without TensorFlow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tfserving.foundation.library import Library, Node

__all__ = ["CALLS", "INIT", "INIT_COLLECTIONS", "SAME", "Graph", "Node", "Reach"]

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# What hands a tensor on as it is.
SAME = ("Identity", "StopGradient", "EnsureShape")
INIT = "__saved_model_init_op"
# How much work finding the origin of a graph's file names may take. A hostile graph can make it very long.
MOST_STEPS = 100_000
# Where TensorFlow 1 has it.
INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")


@dataclass(frozen=True)
class Reach:
    """What may run when some tensors are computed: names of nodes of the graph itself, and of functions."""

    nodes: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()

    def __contains__(self, node: Node) -> bool:
        return node.function in self.functions if node.function else node.message.name in self.nodes

    def __or__(self, other: Reach) -> Reach:
        return Reach(self.nodes | other.nodes, self.functions | other.functions)


class Graph:
    """A meta graph, its nodes and functions by name.

    `init` and `restore` are the tensors and operations that run when it is loaded; the latter get the checkpoint's
    path as the tensor `saver_file`. Raises ValueError when two nodes or functions have one name.
    """

    def __init__(self, meta_graph: Any) -> None:
        self.signatures = {name: signature for name, signature in meta_graph.signature_def.items() if name != INIT}
        definition = meta_graph.graph_def
        self._nodes = {node.name: Node(node, "") for node in definition.node}
        self._library = Library(definition.library)
        if len(self._nodes) < len(definition.node) or len(self._library.functions) < len(definition.library.function):
            raise ValueError("two nodes or two functions of the graph have the same name")
        self._scopes = {"": self._nodes}
        self._steps = 0
        self.restore = [meta_graph.saver_def.restore_op_name]
        self.saver_file = _tensor(meta_graph.saver_def.filename_tensor_name)
        self.init = _tensors(meta_graph.signature_def[INIT].outputs) if INIT in meta_graph.signature_def else []
        for collection in INIT_COLLECTIONS:
            if collection in meta_graph.collection_def:
                self.init += meta_graph.collection_def[collection].node_list.value

    def __iter__(self) -> Iterator[Node]:
        """Every operation there is, those of all functions included."""
        yield from self._nodes.values()
        for function in self._library.functions:
            yield from self._library.body(function)

    def is_function(self, name: str) -> bool:
        """Whether the graph brings a function of that name: then it is no operation."""
        return name in self._library.functions

    def nesting(self) -> tuple[float, float]:
        """How deep functions call one another at most, and how many calls one call makes; see Library."""
        return self._library.nesting()

    def function(self, name: str) -> Any:
        """The FunctionDef of that name."""
        return self._library.functions[name]

    def scope(self, function: str = "") -> dict[str, Node]:
        """The operations in a function, or in the graph itself, by name."""
        if function not in self._scopes:
            body = list(self._library.body(function))
            nodes = {node.message.name: node for node in body}
            # TensorFlow refuses a function that has two operations of one name.
            self._scopes[function] = nodes if len(nodes) == len(body) else {}
        return self._scopes[function]

    def nodes(self, signature: str) -> Iterator[Node]:
        """Every operation that may run when `signature` is called, those of the functions it calls included."""
        reach = self.reach(_tensors(self.signatures[signature].outputs))
        return (node for node in self if node in reach)

    def ends(self, signature: str) -> list[str]:
        """The nodes that make the inputs and outputs of `signature`."""
        definition = self.signatures[signature]
        return [_node_name(tensor) for tensor in (*_tensors(definition.inputs), *_tensors(definition.outputs))]

    def reach(self, tensors: Iterable[str]) -> Reach:
        """What may run when `tensors` are computed: rather too much than too little."""
        nodes = frozenset(node.message.name for node in self._ancestors(tensors))
        return Reach(nodes, self._library.reach(name for node in nodes for name in self._named[node]))

    def leading_to(self, nodes: Iterable[Node]) -> dict[str, Node]:
        """The nodes of the graph itself that may have one of `nodes` run, by name: and which one."""
        nodes = list(nodes)
        functions = self._library.calling({node.function: node for node in nodes if node.function})
        found = {node.message.name: node for node in nodes if not node.function}
        consumers = defaultdict(list)
        for name, node in self._nodes.items():
            for source in node.message.input:
                consumers[_node_name(source)].append(name)
            if called := next((function for function in self._named[name] if function in functions), None):
                found.setdefault(name, functions[called])
        waiting = list(found)
        while waiting:
            name = waiting.pop()
            for consumer in consumers[name]:
                if consumer not in found:
                    found[consumer] = found[name]
                    waiting.append(consumer)
        return found

    def unrestored(self, signature: str) -> list[str]:
        """The variables that `signature` uses and nothing gives a value when the version is loaded."""
        restored = {
            node.message.name for node in self._ancestors([*self.restore, *self.init]) if node.op == "VarHandleOp"
        }
        used = self._ancestors(_tensors(self.signatures[signature].outputs))
        return sorted({n.message.name for n in used if n.op == "VarHandleOp"} - restored)

    def consumers(self, tensor: str) -> list[Node]:
        """The operations that do something with the graph's tensor `tensor`, in the functions that it goes into."""
        return list(self._consumers(tensor, ""))

    def producer(self, tensor: str) -> Node | None:
        """The operation that makes the graph's tensor `tensor`, in a function when it comes from one.

        None when it is unknown, as for an input of the function.
        """
        node = self._nodes.get(_node_name(tensor))
        index = int(tensor.partition(":")[2] or 0)
        while node is not None:
            scope = node.function
            if node.op in CALLS:
                scope = node.message.attr["f"].func.name
                function = self._library.functions[scope]
                reference = function.ret[function.signature.output_arg[index].name]
            elif node.op in SAME:
                reference = node.message.input[0]
            else:
                return node
            name, _, rest = reference.partition(":")
            index = int(rest.rpartition(":")[2] or 0)
            node = self.scope(scope).get(name)
        return None

    def origins(self, node: Node, index: int) -> set[str]:
        """The graph's tensors, as `name:0`, that input `index` of `node` may be, whoever calls the function it is in.

        Empty when that is unknown, or would take very long.
        """
        waiting = [(node.function, node.inputs[index] if index < len(node.inputs) else "")]
        seen: set[tuple[str, str]] = set()
        found: set[str] = set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            self._steps += 1
            if self._steps > MOST_STEPS:
                return set()
            function, reference = place
            name = reference.partition(":")[0]
            made_by = self.scope(function).get(name)
            if made_by and made_by.op in SAME and made_by.inputs:
                waiting.append((function, made_by.inputs[0]))
            elif made_by and not function:
                found.add(_tensor(reference))
            elif not made_by and (given := self._given(function, name)):
                waiting += given
            else:
                return set()
        return found

    def assigned(self, tensor: str) -> set[str]:
        """The tensors that the graph itself assigns to the variable that `tensor` is read from; none if it isn't."""
        node = self._nodes[_node_name(tensor)]
        return self._assigned.get(tuple(node.inputs), set()) if node.op == "ReadVariableOp" else set()

    def _given(self, function: str, argument: str) -> list[tuple[str, str]]:
        """What `function` gets as `argument`: tensors, and the functions they are in. Empty when that is unknown."""
        index = self._arguments.get((function, argument))
        callers = self._callers.get(function, [])
        self._steps += len(callers)
        if index is None or not all(caller and index < len(caller.inputs) for caller in callers):
            return []
        return [(caller.function, caller.inputs[index]) for caller in callers if caller]

    @cached_property
    def _arguments(self) -> Mapping[tuple[str, str], int]:
        """Which input of a call each argument is, of functions whose arguments are single tensors."""
        return {
            (name, argument.name): index
            for name, function in self._library.functions.items()
            if not any(one.number_attr or one.type_list_attr for one in function.signature.input_arg)
            for index, argument in enumerate(function.signature.input_arg)
        }

    @cached_property
    def _callers(self) -> Mapping[str, list[Node | None]]:
        """The nodes that call each function; None stands for whatever else may have it called."""
        callers: dict[str, list[Node | None]] = defaultdict(list)
        for node in self:
            named = self._library.named_by(node)
            for name in named:
                called = node.op == name or (node.op in CALLS and node.message.attr["f"].func.name == name)
                callers[name].append(node if called and named.count(name) == 1 else None)
        for function in self._library.functions:
            for name in self._library.named_beside(function):
                callers[name].append(None)
        for companions in self._library.companions.values():
            for name in companions:
                callers[name].append(None)
        return callers

    @cached_property
    def _assigned(self) -> Mapping[tuple[str, ...], set[str]]:
        """The tensors that are assigned to each variable, by its handle."""
        assigned: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for node in self._nodes.values():
            if node.op == "AssignVariableOp":
                handle, *values = node.inputs or [""]
                assigned[handle,].update(map(_tensor, values))
        return assigned

    @cached_property
    def _named(self) -> Mapping[str, list[str]]:
        return {name: self._library.named_by(node) for name, node in self._nodes.items()}

    def _ancestors(self, tensors: Iterable[str]) -> Iterator[Node]:
        waiting = [_node_name(tensor) for tensor in tensors]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._nodes:
                continue
            seen.add(name)
            yield self._nodes[name]
            waiting += [_node_name(source) for source in self._nodes[name].message.input]

    def _consumers(self, tensor: str, function: str) -> Iterator[Node]:
        for node in self.scope(function).values():
            for index, source in enumerate(node.message.input):
                # In a function an operation's first output is also called `name:output:0`.
                if source != tensor and not source.startswith(f"{tensor}:") and source != tensor.removesuffix(":0"):
                    continue
                if node.op in CALLS:
                    called = self._library.functions[node.message.attr["f"].func.name]
                    yield from self._consumers(called.signature.input_arg[index].name, called.signature.name)
                elif node.op in SAME:
                    yield from self._consumers(node.message.name, function)
                else:
                    yield node


def _tensors(infos: Mapping[str, Any]) -> list[str]:
    """The names of all the tensors in the inputs or outputs of a signature."""
    names: list[str] = []
    waiting = list(infos.values())
    while waiting:
        info = waiting.pop()
        sparse = info.coo_sparse
        names += (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
        waiting += info.composite_tensor.components
    return [name for name in names if name]


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
