"""Finds the operations that a tensor of a wrong rank reaches. Some of them crash the process that runs them.

An operation checks the rank of a tensor if it returns an error for another rank, such as EnsureShape or a reshape. The
operations before it rely on the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tfserving.foundation.graph import CALLS, Graph, Node

# These operations crash the process, by a failed CHECK or a signal, when the rank of one of these inputs isn't the one
# that the graph was made for. Found with TensorFlow 2.21 on x86-64, with and without oneDNN, by running 725 operations,
# layers and their rewrites by Grappler, in a session as on servers, with 21,000 tensors of all ranks up to 6 and many
# sizes.
ABORTING: Mapping[str, tuple[int, ...]] = {
    "AvgPoolGrad": (1,),
    "BiasAdd": (1,),
    "CombinedNonMaxSuppression": (1,),
    "Conv2D": (0,),
    "Conv2DBackpropFilter": (0, 2),
    "Conv2DBackpropInput": (0,),
    "Conv3D": (0,),
    "Conv3DBackpropFilterV2": (0, 2),
    "DepthwiseConv2dNative": (0,),
    "FakeQuantWithMinMaxVarsPerChannel": (0,),
    "LSTMBlockCell": (0, 1, 2),
    "MaxPool3D": (0,),
    "QuantizedConv2DPerChannel": (0,),
    "QuantizedConv2DWithBias": (0,),
    "QuantizedDepthwiseConv2D": (0,),
    "QuantizedInstanceNorm": (0,),
}
# Grappler fuses these three, the scores of masked attention, into one operation that doesn't check ranks.
FUSED = (("Add", "AddV2"), ("Mul",), ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"))
# These return an error for a wrong rank, or return a tensor whose rank doesn't depend on the inputs' ranks.
SETTLING = (
    *("Shape", "ShapeN", "Size", "Rank", "MatMul", "SparseTensorDenseMatMul", "ParseExample"),
    *("DecodeImage", "DecodeJpeg", "DecodePng", "DecodeBmp", "DecodeGif", "DecodeAndCropJpeg", "DecodeWav"),
    *("ResizeArea", "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor", "ScaleAndTranslate", "CropAndResize"),
    *("MaxPool", "MaxPoolV2", "AvgPool", "AvgPool3D", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "LRN"),
    *("SpaceToDepth", "DepthToSpace", "ExtractImagePatches"),
)
# These do so if their second input is a vector of known length, with one entry for each dimension.
BY_DIMENSION = ("Reshape", "Slice", "Tile", "Transpose")
VECTORS = ("Const", "Pack")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
LOOPS = ("While", "StatelessWhile")


def trusting(graph: Graph, tensor: str) -> list[Node]:
    """Return the operations that crash the process when the graph's `tensor` is fed with a wrong rank."""
    walk = _Walk(graph)
    walk.follow("", {walk.key(tensor, graph.scope(""))})
    return walk.found


class _Walk:
    """Follows a tensor of unchecked rank through a graph and its functions.

    The key of a tensor is its operation's name. Each output of an operation that calls a function has a key of its own.
    """

    def __init__(self, graph: Graph) -> None:
        self.found: list[Node] = []
        self._graph = graph
        self._returned: dict[tuple[str, frozenset[int]], frozenset[int]] = {}

    def key(self, source: str, nodes: Mapping[str, Node]) -> str:
        """Return the key of the input `source` of an operation."""
        name, _, output = source.partition(":")
        node = nodes.get(name)
        # `name`, `name:1`, or, in a function, `name:output:1`.
        return f"{name}:{output.rpartition(':')[2] or 0}" if node and self._functions(node) else name

    def follow(self, function: str, unchecked: set[str]) -> None:
        """Add the tensors of unchecked rank in `function`, '' for the main graph, to `unchecked`."""
        nodes = self._graph.scope(function)
        size = 0
        # Two rounds in most cases: operations are listed before their consumers, except in loops of TensorFlow 1.
        while len(unchecked) > size:
            size = len(unchecked)
            for node in nodes.values():
                sources = [source for source in node.message.input if not source.startswith("^")]
                hit = {index for index, source in enumerate(sources) if self.key(source, nodes) in unchecked}
                if hit:
                    unchecked.update(self._outputs(node, sources, hit, nodes))

    def _outputs(self, node: Node, sources: list[str], hit: set[int], nodes: Mapping[str, Node]) -> Iterable[str]:
        """Return the outputs of `node` with unchecked ranks, when its inputs `hit` have unchecked ranks."""
        name = node.message.name
        if functions := self._functions(node):
            return [f"{name}:{index}" for index in self._call(node, functions, hit)]
        if _aborts(node, sources, hit, nodes):
            if node not in self.found:
                self.found.append(node)
            return ()
        return () if _settles(node, sources, nodes) else (name,)

    def _functions(self, node: Node) -> list[str]:
        """Return the functions that receive the inputs of `node`. The functions of a dataset, for example, do not."""
        attributes = node.message.attr
        if node.op in CALLS:
            return [attributes["f"].func.name]
        if node.op in LOOPS:
            return [attributes["cond"].func.name, attributes["body"].func.name]
        if node.op in BRANCHES:
            names = [attributes["then_branch"].func.name, attributes["else_branch"].func.name]
            return [*filter(None, names), *(branch.name for branch in attributes["branches"].list.func)]
        return [node.op] if self._graph.is_function(node.op) else []

    def _call(self, node: Node, functions: list[str], hit: set[int]) -> frozenset[int]:
        if node.op in LOOPS:
            condition, body = functions
            given: frozenset[int] = frozenset()
            carried = frozenset(hit)
            while carried > given:
                given = carried
                carried |= self._return(body, given)
            self._return(condition, given)
            return given
        # The first input of a branch selects the function.
        first = 1 if node.op in BRANCHES else 0
        given = frozenset(index - first for index in hit if index >= first)
        return frozenset().union(*(self._return(function, given) for function in functions))

    def _return(self, function: str, given: frozenset[int]) -> frozenset[int]:
        """Return the outputs of `function` with unchecked ranks, when its arguments `given` have unchecked ranks."""
        key = function, given
        if key not in self._returned:
            # For a function that calls itself.
            self._returned[key] = frozenset()
            definition = self._graph.function(function)
            unchecked = {definition.signature.input_arg[index].name for index in given}
            self.follow(function, unchecked)
            nodes = self._graph.scope(function)
            outputs = [definition.ret[output.name] for output in definition.signature.output_arg]
            self._returned[key] = frozenset(
                index for index, output in enumerate(outputs) if self.key(output, nodes) in unchecked
            )
        return self._returned[key]


def _aborts(node: Node, sources: list[str], hit: set[int], nodes: Mapping[str, Node]) -> bool:
    if node.op in FUSED[0]:
        products = [made for made in _makers(sources, nodes) if made.op in FUSED[1]]
        return any(made.op in FUSED[2] for product in products for made in _makers(product.message.input, nodes))
    return not hit.isdisjoint(ABORTING.get(node.op, ()))


def _settles(node: Node, sources: list[str], nodes: Mapping[str, Node]) -> bool:
    attributes = node.message.attr
    if node.op == "EnsureShape":
        return not attributes["shape"].shape.unknown_rank
    if node.op == "Einsum":
        return b"..." not in attributes["equation"].s
    if node.op in BY_DIMENSION:
        return any(made.op in VECTORS for made in _makers(sources[1:2], nodes))
    return node.op in SETTLING


def _makers(sources: Iterable[str], nodes: Mapping[str, Node]) -> list[Node]:
    """Return the operations that produce the tensors `sources`; none for a function's arguments."""
    return [nodes[name] for source in sources if (name := source.partition(":")[0]) in nodes]
