"""What a signature's graph does, read from a SavedModel without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# What hands a tensor on as it is.
SAME = ("Identity", "StopGradient", "EnsureShape")
INIT = "__saved_model_init_op"
# Where TensorFlow 1 has it.
INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
PYTHON_OPS = ("EagerPyFunc", "PyFunc", "PyFuncStateless")
FILE_OPS = (
    *("ReadFile", "WriteFile", "MatchingFiles", "Save", "SaveSlices", "SaveV2", "Restore", "RestoreSlice", "RestoreV2"),
    *("MergeV2Checkpoints", "ImmutableConst", "InitializeTableFromTextFile", "InitializeTableFromTextFileV2"),
    *("CreateSummaryFileWriter", "CreateSummaryDbWriter", "SaveDataset", "SaveDatasetV2", "LoadDataset"),
    *("TextLineReader", "TextLineReaderV2", "WholeFileReader", "WholeFileReaderV2", "LMDBReader", "LMDBDataset"),
    *("FixedLengthRecordReader", "FixedLengthRecordReaderV2", "TFRecordReader", "TFRecordReaderV2", "SqlDataset"),
    *("TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset", "CSVDataset"),
    *("FixedLengthRecordDatasetV2", "CSVDatasetV2", "SnapshotDataset", "SnapshotDatasetV2", "CacheDatasetV2"),
)


@dataclass(frozen=True)
class Node:
    """An operation, and the function it is in ('' when it is in none)."""

    message: Any
    function: str

    @property
    def op(self) -> str:
        """What it does: `MatMul`."""
        return str(self.message.op)

    def __str__(self) -> str:
        return f"{self.op} ({self.message.name})"


class Graph:
    """A meta graph, its nodes and functions by name."""

    def __init__(self, meta_graph: Any) -> None:
        self.signatures = {name: signature for name, signature in meta_graph.signature_def.items() if name != INIT}
        self._nodes = {node.name: Node(node, "") for node in meta_graph.graph_def.node}
        self._functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
        self._restore = meta_graph.saver_def.restore_op_name
        init = meta_graph.signature_def.get(INIT)
        self._init = [info.name for info in init.outputs.values()] if init else []
        for collection in INIT_COLLECTIONS:
            self._init += meta_graph.collection_def[collection].node_list.value

    def is_function(self, name: str) -> bool:
        """Whether the graph brings a function of that name: then it is no operation."""
        return name in self._functions

    def function(self, name: str) -> Any:
        """The FunctionDef of that name."""
        return self._functions[name]

    def scope(self, function: str = "") -> dict[str, Node]:
        """The operations in a function, or in the graph itself, by name."""
        return _body(self._functions[function]) if function else self._nodes

    def nodes(self, signature: str) -> Iterator[Node]:
        """Every operation that may run when `signature` is asked, those of the functions it calls included."""
        seen: set[str] = set()
        for node in self._ancestors(info.name for info in self.signatures[signature].outputs.values()):
            yield node
            yield from self._called(node, seen)

    def initializers(self) -> Iterator[Node]:
        """Every operation that runs when the graph is loaded, besides those that restore its variables."""
        seen: set[str] = set()
        for node in self._ancestors(self._init):
            yield node
            yield from self._called(node, seen)

    def unrestored(self, signature: str) -> list[str]:
        """The variables that `signature` uses and nothing gives a value when the version is loaded."""
        restored = {
            node.message.name for node in self._ancestors([self._restore, *self._init]) if node.op == "VarHandleOp"
        }
        used = self._ancestors(info.name for info in self.signatures[signature].outputs.values())
        return sorted({n.message.name for n in used if n.op == "VarHandleOp"} - restored)

    def consumers(self, tensor: str) -> list[Node]:
        """The operations that do something with the graph's tensor `tensor`, in the functions that it goes into."""
        return list(self._consumers(tensor, self._nodes.values(), ""))

    def producer(self, tensor: str) -> Node | None:
        """The operation that makes the graph's tensor `tensor`, in a function when it comes from one.

        None when it can't be told: an input of the function, say.
        """
        node = self._nodes.get(_node_name(tensor))
        index = int(tensor.partition(":")[2] or 0)
        while node is not None:
            if node.op in CALLS:
                function = self._functions[node.message.attr["f"].func.name]
                reference = function.ret[function.signature.output_arg[index].name]
            elif node.op in SAME:
                reference = node.message.input[0]
                function = self._functions.get(node.function)
            else:
                return node
            name, _, rest = reference.partition(":")
            index = int(rest.rpartition(":")[2] or 0)
            scope = self._nodes if function is None else _body(function)
            node = scope.get(name)
        return None

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

    def _called(self, node: Node, seen: set[str]) -> Iterator[Node]:
        """The operations of the functions that `node` may call, and those of the functions they call."""
        names = [node.op]
        for value in node.message.attr.values():
            names += [value.func.name, *(function.name for function in value.list.func)]
        for name in names:
            if name in self._functions and name not in seen:
                seen.add(name)
                for inner in _body(self._functions[name]).values():
                    yield inner
                    yield from self._called(inner, seen)

    def _consumers(self, tensor: str, nodes: Iterable[Node], function: str) -> Iterator[Node]:
        nodes = list(nodes)
        for node in nodes:
            for index, source in enumerate(node.message.input):
                # In a function an operation's first output is also called `name:output:0`.
                if source != tensor and not source.startswith(f"{tensor}:") and source != tensor.removesuffix(":0"):
                    continue
                if node.op in CALLS:
                    called = self._functions[node.message.attr["f"].func.name]
                    argument = called.signature.input_arg[index].name
                    yield from self._consumers(argument, _body(called).values(), called.signature.name)
                elif node.op in SAME:
                    yield from self._consumers(node.message.name, nodes, function)
                else:
                    yield node


def _body(function: Any) -> dict[str, Node]:
    return {node.name: Node(node, function.signature.name) for node in function.node_def}


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
