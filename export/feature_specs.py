"""The features of the tf.Examples that a graph parses, read from the operation that parses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfserving.foundation.graph import Graph, Node
from tfserving.foundation.tensors import BY_NUMBER, from_proto

# Parsed with a default that is empty, a feature has any number of values.
SEVERAL = 2


@dataclass(frozen=True)
class Feature:
    """One feature: TensorFlow's name of its dtype, and how many values one example of it has."""

    dtype: str
    values: int


def features_of(graph: Graph, tensor: str) -> dict[str, Feature] | None:
    """By name the features of the serialized tf.Examples that the graph's `tensor` is fed with; None for other strings.

    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/ops/parsing_ops.cc
    """
    for node in graph.consumers(tensor):
        if node.op in _READERS:
            # One whose names come from elsewhere can't be read here.
            try:
                return dict(_READERS[node.op](graph, node))
            except (KeyError, ValueError, TypeError):
                return None
    return None


def _parse_example(graph: Graph, node: Node) -> Iterator[tuple[str, Feature]]:
    """ParseExample: serialized, names, a scalar for the name of each sparse and of each dense feature, defaults."""
    attributes = node.message.attr
    sparse, dense = attributes["Nsparse"].i, attributes["Ndense"].i
    names = [_constant(graph, node, 2 + index).item() for index in range(sparse + dense)]
    yield from _features(attributes, names[:sparse], names[sparse:])


def _parse_example_v2(graph: Graph, node: Node) -> Iterator[tuple[str, Feature]]:
    """ParseExampleV2: serialized, names, and a vector for the names of the sparse, dense and ragged features."""
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
    """The array that input `index` of `node` always is. Raises KeyError when it isn't a constant."""
    made = graph.scope(node.function)[node.inputs[index].partition(":")[0]]
    if made.op != "Const":
        raise KeyError(made.message.name)
    return from_proto(made.message.attr["value"].tensor)


_READERS = {"ParseExample": _parse_example, "ParseExampleV2": _parse_example_v2}
