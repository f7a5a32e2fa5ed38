"""Reads the features of the tf.Examples that a graph parses from the operation that parses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfserving.foundation.graph import Graph, Node
from tfserving.foundation.tensors import BY_NUMBER, from_proto

# The number of values for a feature of unknown length, which is parsed with an empty default.
SEVERAL = 2


@dataclass(frozen=True)
class Feature:
    """One feature: TensorFlow's name of its dtype, and the number of values in one example."""

    dtype: str
    values: int


def features_of(graph: Graph, tensor: str) -> dict[str, Feature] | None:
    """Return by name the features of the serialized tf.Examples in the graph's `tensor`; None for other strings.

    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/ops/parsing_ops.cc
    """
    for node in graph.consumers(tensor):
        if node.op in _READERS:
            # Names that are not constants can't be read.
            try:
                return dict(_READERS[node.op](graph, node))
            except (KeyError, ValueError, TypeError):
                return None
    return None


def _parse_example(graph: Graph, node: Node) -> Iterator[tuple[str, Feature]]:
    """Read ParseExample. Inputs: serialized, names, a scalar name for each sparse and dense feature, defaults."""
    attributes = node.message.attr
    sparse, dense = attributes["Nsparse"].i, attributes["Ndense"].i
    names = [_constant(graph, node, 2 + index).item() for index in range(sparse + dense)]
    yield from _features(attributes, names[:sparse], names[sparse:])


def _parse_example_v2(graph: Graph, node: Node) -> Iterator[tuple[str, Feature]]:
    """Read ParseExampleV2. Inputs: serialized, names, and a vector of the sparse, dense and ragged features' names."""
    attributes = node.message.attr
    sparse, dense, ragged = (_constant(graph, node, index).ravel().tolist() for index in (2, 3, 4))
    yield from _features(attributes, sparse, dense)
    for name, dtype in zip(ragged, attributes["ragged_value_types"].list.type, strict=True):
        yield name.decode(), Feature(BY_NUMBER[dtype].name, SEVERAL)


def _features(attributes: Mapping[str, Any], sparse: list[bytes], dense: list[bytes]) -> Iterator[tuple[str, Feature]]:
    for name, dtype in zip(sparse, attributes["sparse_types"].list.type, strict=True):
        yield name.decode(), Feature(BY_NUMBER[dtype].name, SEVERAL)
    shapes = attributes["dense_shapes"].list.shape
    for name, dtype, shape in zip(dense, attributes["Tdense"].list.type, shapes, strict=True):
        values = 1
        for dimension in shape.dim:
            values *= dimension.size if dimension.size >= 0 else SEVERAL
        yield name.decode(), Feature(BY_NUMBER[dtype].name, values)


def _constant(graph: Graph, node: Node, index: int) -> Any:
    """Return the constant that is input `index` of `node`. Raises KeyError when it isn't a constant."""
    made = graph.scope(node.function)[node.inputs[index].partition(":")[0]]
    if made.op != "Const":
        raise KeyError(made.message.name)
    return from_proto(made.message.attr["value"].tensor)


_READERS = {"ParseExample": _parse_example, "ParseExampleV2": _parse_example_v2}
