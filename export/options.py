"""Options that change a model's graph for size or speed. Each is kept only if the golden outputs stay in tolerance.

    freeze ──► optimize ──► half ──► xla        those that were requested, in this order

`optimize` and `half` work on constants, so they freeze first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tfserving.export.edge_requests import EdgeRequest
from tfserving.export.errors import ServableError
from tfserving.export.savedmodel import write_savedmodel
from tfserving.export.servable import Servable, one_array
from tfserving.export.sizes import not_to_be_frozen
from tfserving.export.tolerances import TOLERANCES, Judge, describe, widest
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.graph import CALLS, SAME

Option = Literal["freeze", "optimize", "half", "xla"]
OPTIONS: tuple[Option, ...] = get_args(Option)
# The options that turn variables into constants.
CONSTANT: tuple[Option, ...] = ("freeze", "optimize", "half")
# Constants with fewer elements are not weights, and rounding a shape or an epsilon saves nothing.
FEWEST_WEIGHTS = 64
ROUNDS = 30
# Nodes that hold or pass on a tensor, or call a function.
NOT_COMPUTED = {"Const", "NoOp", "Placeholder", *CALLS, *SAME}
# A smaller change of size or time is noise.
LESS = 0.95


@dataclass(frozen=True)
class Effect:
    """The effect of an option: size on disk in bytes, seconds of a call with one row, and nodes, before and after.

    The nodes are those that compute, in the graphs of all signatures. `reason` is why the option was not kept. The
    others are None when it could not be tried.
    """

    option: Option
    size: tuple[int, int] | None = None
    seconds: tuple[float, float] | None = None
    nodes: tuple[int, int] | None = None
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether the version uses the option."""
        return not self.reason

    @property
    def helps(self) -> bool:
        """Whether it makes the version smaller or a call faster, by more than noise."""
        if self.size is None or self.seconds is None:
            return False
        return self.size[1] < LESS * self.size[0] or self.seconds[1] < LESS * self.seconds[0]

    def __str__(self) -> str:
        if self.size is None or self.seconds is None or self.nodes is None:
            return f"{self.option} was not kept: {self.reason}"
        (size, smaller), (time_before, time_after) = self.size, self.seconds
        change = (
            f"size {size / 1e6:.3g} MB to {smaller / 1e6:.3g} MB, {self.nodes[0]} to {self.nodes[1]} nodes, "
            f"one row {time_before * 1e6:.0f} µs to {time_after * 1e6:.0f} µs"
        )
        if not self.kept:
            return f"{self.option} was not kept: {self.reason} ({change})"
        return f"{self.option}: {change}{'' if self.helps else '. It makes the model neither smaller nor faster'}"


def judge_with(options: Collection[Option], table: Mapping[str, Tolerance] = TOLERANCES) -> Judge:
    """Return the judge for a graph with these `options`, with the tolerances of `table`.

    For float16 weights, float32 has float16's tolerance.
    """
    if "half" not in options:
        return Judge(table)
    return Judge({**table, "float32": widest(table["float32"], TOLERANCES["float16"])}, most=1.0)


def applied(functions: Mapping[str, Any], options: Collection[Option]) -> dict[str, Any]:
    """Return the traced `functions` after the `options`, without any test."""
    changed = dict(functions)
    for option in (option for option in OPTIONS if option in options):
        changed = {name: APPLY[option](function) for name, function in changed.items()}
    return changed


def improve(
    servable: Servable,
    functions: Mapping[str, Any],
    requests: Sequence[GoldenRequest],
    options: Sequence[Option],
    scratch: Path,
    table: Mapping[str, Tolerance] = TOLERANCES,
) -> tuple[dict[str, Any], tuple[Effect, ...]]:
    """Apply the `options` that keep every golden output within tolerance to the traced `functions`.

    Return the functions, and the effect of each option. `scratch` is a folder for temporary files, `table` has the
    tolerances.
    """
    current = _Graphs(servable, functions)
    effects: list[Effect] = []
    for option in (option for option in OPTIONS if option in options):
        kept = [effect.option for effect in effects if effect.kept]
        if option in CONSTANT and (reason := not_to_be_frozen(current.functions)):
            effects.append(Effect(option, reason=reason))
            continue
        try:
            changed = _Graphs(servable, {name: APPLY[option](function) for name, function in current.functions.items()})
            reason = changed.worst(requests, judge_with([*kept, option], table))
            size = current.size(scratch / f"{option}-before"), changed.size(scratch / f"{option}-after")
            seconds = _seconds(current, changed, requests)
            effect = Effect(option, size, seconds, (current.nodes(), changed.nodes()), reason)
        except Exception as error:
            effect = Effect(option, reason=f"{type(error).__name__}: {_reason(error)}")
        effects.append(effect)
        if effect.kept:
            current = changed
    return dict(current.functions), tuple(effects)


@dataclass(frozen=True)
class _Graphs:
    """The traced `functions` of a servable, by signature."""

    servable: Servable
    functions: Mapping[str, Any]

    def run(self, request: GoldenRequest) -> dict[str, Any]:
        import tensorflow as tf

        function = self.functions[request.signature]
        specs = _specs(function)
        values = {**self.servable.signatures[request.signature].defaults, **request.inputs}
        inputs = {name: tf.constant(array, specs[name].dtype) for name, array in values.items()}
        return {name: one_array(tensor.numpy()) for name, tensor in function(inputs).items()}

    def worst(self, requests: Sequence[GoldenRequest], judge: Judge) -> str:
        """Return the first difference of an output from the golden one; '' when all are within tolerance."""
        for request in requests:
            outputs = self.run(request)
            if isinstance(request, EdgeRequest) and (rows := request.disputed(outputs, judge, rewritten=True)):
                if (rest := request.without(rows)) is None:
                    continue
                request, outputs = rest, self.run(rest)  # noqa: PLW2901
            for name, golden in request.outputs.items():
                difference = judge.judge(outputs[name], golden)
                if difference.verdict == "different":
                    return f"signature {request.signature!r}, output {name!r}: {describe(difference)}"
        return ""

    def size(self, folder: Path) -> int:
        """Write them as a SavedModel to `folder`, and return its size in bytes."""
        write_savedmodel(self.servable, self.functions, folder)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def nodes(self) -> int:
        """Return the number of nodes that compute something or read a variable, those in functions included."""
        return sum(
            node.op not in NOT_COMPUTED
            for function in self.functions.values()
            for graph in [function.graph.as_graph_def()]
            for nodes in (graph.node, *(inner.node_def for inner in graph.library.function))
            for node in nodes
        )


def _reason(error: Exception) -> str:
    """Return the most useful line of an error. Python's errors in a traced function begin with their place."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("in user code") else lines[0]


def _freeze(function: Any) -> Any:
    return _Constants(function).function()


def _optimize(function: Any) -> Any:
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.core.protobuf.meta_graph_pb2 import CollectionDef
    from tensorflow.python.grappler import tf_optimizer

    constants = _Constants(function)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(constants.graph_def, name="")
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph)
    kept = CollectionDef()
    kept.node_list.value.extend([*constants.inputs.values(), *constants.outputs.values(), *constants.resources])
    meta_graph.collection_def["train_op"].CopyFrom(kept)
    config = ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    constants.graph_def = tf_optimizer.OptimizeGraph(config, meta_graph)
    _rename_functions(constants.graph_def)
    return constants.function()


def _rename_functions(graph_def: Any) -> None:
    """Rename the graph's functions: TensorFlow has the unchanged ones under the same names."""
    names = {function.signature.name: f"{function.signature.name}_optimized" for function in graph_def.library.function}
    for function in graph_def.library.function:
        function.signature.name = names[function.signature.name]
    for node in (*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)):
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in (value.func, *value.list.func) if value.HasField("func") or value.list.func else ():
                called.name = names.get(called.name, called.name)


def _half(function: Any) -> Any:
    import tensorflow as tf

    constants = _Constants(function)
    for node in list(constants.graph_def.node):
        if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
            continue
        value = tf.make_ndarray(node.attr["value"].tensor)
        if value.size < FEWEST_WEIGHTS:
            continue
        half = constants.graph_def.node.add(name=f"{node.name}/half", op="Const")
        half.attr["dtype"].type = tf.float16.as_datatype_enum
        # A value beyond float16 becomes infinite, and the comparison of outputs finds it.
        with np.errstate(over="ignore"):
            half.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float16)))
        node.Clear()
        node.MergeFrom(_cast(half.name, half.name.removesuffix("/half")))
    return constants.function()


def _cast(source: str, name: str) -> Any:
    import tensorflow as tf

    node = tf.compat.v1.NodeDef(name=name, op="Cast", input=[source])
    node.attr["SrcT"].type = tf.float16.as_datatype_enum
    node.attr["DstT"].type = tf.float32.as_datatype_enum
    return node


def _compile(function: Any) -> Any:
    import tensorflow as tf

    def run(inputs: Any) -> Any:
        return function(inputs)

    return tf.function(run, jit_compile=True).get_concrete_function(_specs(function))


def _specs(function: Any) -> dict[str, Any]:
    """Return the inputs of a traced function by name, in the order of its graph's inputs."""
    import tensorflow as tf

    return {spec.name: spec for spec in tf.nest.flatten(function.structured_input_signature)}


class _Constants:
    """A signature's graph with constants for variables, and the data to turn it into a function again."""

    def __init__(self, function: Any) -> None:
        # TensorFlow Lite freezes models with it; it has no public name.
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

        self._specs = _specs(function)
        frozen, self.graph_def = convert_variables_to_constants_v2_as_graph(function)
        tensors = [tensor.name for tensor in frozen.inputs]
        # After the inputs come captured resources such as tables, in this order.
        self.inputs = dict(zip(self._specs, tensors, strict=False))
        self.resources = tensors[len(self._specs) :]
        variables = {id(variable.handle) for variable in function.graph.variables}
        # Captured values that are not resources are constants now, like the variables.
        self._handles = [
            captured
            for captured in function.captured_inputs
            if captured.dtype.name == "resource" and id(captured) not in variables
        ]
        if len(self._handles) != len(self.resources):
            raise ServableError("its graph has resources that can't be distinguished")
        self.outputs = dict(
            zip(sorted(function.structured_outputs), (tensor.name for tensor in frozen.outputs), strict=True)
        )
        self._shapes = {name: tensor.shape for name, tensor in function.structured_outputs.items()}

    def function(self) -> Any:
        """Return the graph as a concrete function."""
        import tensorflow as tf

        imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(self.graph_def, name=""), [])
        graph = imported.graph
        pruned = imported.prune(
            [graph.as_graph_element(name) for name in (*self.inputs.values(), *self.resources)],
            [graph.as_graph_element(name) for name in self.outputs.values()],
        )
        # The graph's resources have no shapes; the outputs keep the declared ones.
        shapes, handles, names, outputs = self._shapes, self._handles, list(self.inputs), list(self.outputs)

        def run(inputs: Any) -> dict[str, Any]:
            tensors = pruned(*(inputs[name] for name in names), *handles)
            return {name: tf.ensure_shape(tensor, shapes[name]) for name, tensor in zip(outputs, tensors, strict=True)}

        return tf.function(run).get_concrete_function(self._specs)


def _seconds(before: _Graphs, after: _Graphs, requests: Sequence[GoldenRequest]) -> tuple[float, float]:
    """Return the median times of the first golden request, measured in turns, so that other load affects both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for graphs, measured in zip((before, after), times, strict=True):
            start = time.perf_counter()
            graphs.run(requests[0])
            measured.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


APPLY: Mapping[Option, Callable[[Any], Any]] = {
    "freeze": _freeze,
    "optimize": _optimize,
    "half": _half,
    "xla": _compile,
}
