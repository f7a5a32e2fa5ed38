"""The products in a graph: their dtypes and how many are convolutions decide how much a device may round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tfserving.foundation.graph import Graph, Node
from tfserving.foundation.tensors import BY_NUMBER

_CONVOLUTIONS = (
    *("Conv", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "_FusedConv2D", "_FusedConv3D"),
    *("_FusedDepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
)
_OTHERS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "XlaDot", "XlaDotV2", "_FusedMatMul")
# A program of XLA, for example from JAX, which may have any.
_HIDDEN = "XlaCallModule"
# From this number on, differences by rounding were ten times those of other models: see `tolerances`.
_DEEP = 10


@dataclass(frozen=True)
class Arithmetic:
    """The dtypes of the products in a graph, and the number of convolutions behind the signature with most."""

    products: frozenset[str] = frozenset()
    convolutions: int = 0

    @property
    def is_deep(self) -> bool:
        """Whether it is, or may be, a deep convolutional network: 10 convolutions or more."""
        return self.convolutions >= _DEEP


def traced_arithmetic(functions: Iterable[Any]) -> Arithmetic:
    """Return the products in the traced functions of signatures."""
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    return arithmetic_of(Graph(MetaGraphDef(graph_def=one.graph.as_graph_def())) for one in functions)


def arithmetic_of(signatures: Iterable[Iterable[Node]]) -> Arithmetic:
    """Return the products among the nodes of each of the `signatures`."""
    products: set[str] = set()
    largest = 0
    for nodes in signatures:
        convolutions = 0
        for node in nodes:
            convolutions += node.op in _CONVOLUTIONS
            if node.op == _HIDDEN:
                products.add("float32")
                convolutions += _DEEP
            if node.op in _CONVOLUTIONS or node.op in _OTHERS:
                number = node.message.attr["T"].type
                products.update([BY_NUMBER[number].name] if number in BY_NUMBER else [])
        largest = max(largest, convolutions)
    return Arithmetic(frozenset(products), largest)
