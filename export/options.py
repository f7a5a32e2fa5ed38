"""What can be done to a model's graph for size or speed, kept only when its golden answers stay within tolerance.

    freeze ──► optimize ──► half ──► xla        those that are asked for, in this order

`optimize` and `half` work on constants, so they freeze first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from clients.compare import Tolerance
from clients.golden import GoldenRequest
from export.errors import ServableError
from export.savedmodel import write_savedmodel
from export.servable import Servable
from export.tolerances import TOLERANCES, Judge, describe

Option = Literal["freeze", "optimize", "half", "xla"]
OPTIONS: tuple[Option, ...] = get_args(Option)
# Smaller constants are no weights, and rounding a shape or an epsilon saves nothing.
FEWEST_WEIGHTS = 64
ROUNDS = 30


@dataclass(frozen=True)
class Effect:
    """What an option came to: the size on disk, bytes, and the time of a call with one row, seconds, before and after.

    `reason` says why it was not kept; there is no `after` when it could not be tried.
    """

    option: Option
    size: tuple[int, int] | None = None
    seconds: tuple[float, float] | None = None
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether the version has it."""
        return not self.reason

    def __str__(self) -> str:
        if self.size is None or self.seconds is None:
            return f"{self.option} was not kept: {self.reason}"
        (size, smaller), (time_before, time_after) = self.size, self.seconds
        change = (
            f"{size / 1e6:.3g} MB to {smaller / 1e6:.3g} MB, one row in {time_before * 1e6:.0f} µs to "
            f"{time_after * 1e6:.0f} µs"
        )
        return f"{self.option}: {change}" if self.kept else f"{self.option} was not kept: {self.reason} ({change})"


def tolerances_with(options: Sequence[Option]) -> Mapping[str, Tolerance]:
    """The least tolerances when the `options` are wanted: with float16 weights, float32 answers are float16's."""
    return {**TOLERANCES, "float32": TOLERANCES["float16"]} if "half" in options else TOLERANCES


def improve(
    servable: Servable,
    functions: Mapping[str, Any],
    requests: Sequence[GoldenRequest],
    options: Sequence[Option],
    judge: Judge,
    scratch: Path,
) -> tuple[dict[str, Any], tuple[Effect, ...]]:
    """The traced `functions` with the `options` that keep every golden answer within tolerance, and what each came to.

    `scratch` is a folder for its files.
    """
    current, effects = dict(functions), []
    for option in OPTIONS:
        if option not in options:
            continue
        try:
            changed = {name: _apply(option, function) for name, function in current.items()}
            reason = _worst(changed, requests, judge)
            effect = Effect(
                option,
                (
                    _size(servable, current, scratch / f"{option}-before"),
                    _size(servable, changed, scratch / f"{option}-after"),
                ),
                _seconds(current, changed, requests),
                reason,
            )
        except Exception as error:
            effect = Effect(
                option, reason=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        effects.append(effect)
        if effect.kept:
            current = changed
    return current, tuple(effects)


def _apply(option: Option, function: Any) -> Any:
    apply: Callable[[Any], Any] = {"freeze": _freeze, "optimize": _optimize, "half": _half, "xla": _compile}[option]
    return apply(function)


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
    return constants.function()


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
        half.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype("float16")))
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

    _, specs = function.structured_input_signature

    def run(**inputs: Any) -> Any:
        return function(**inputs)

    return tf.function(run, jit_compile=True).get_concrete_function(**specs)


class _Constants:
    """A signature's graph with its variables made constants, and what is needed to make a function of it again."""

    def __init__(self, function: Any) -> None:
        # The way TensorFlow Lite freezes models; there is no public name for it.
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

        _, self._specs = function.structured_input_signature
        frozen, self.graph_def = convert_variables_to_constants_v2_as_graph(function)
        names = sorted(self._specs)
        tensors = [tensor.name for tensor in frozen.inputs]
        # Flat inputs are in the order of their names; what follows are tables and the like, captured in this order.
        self.inputs = dict(zip(names, tensors, strict=False))
        self.resources = tensors[len(names) :]
        captured = {id(variable.handle) for variable in function.graph.variables}
        self._handles = [handle for handle in function.captured_inputs if id(handle) not in captured]
        if len(self._handles) != len(self.resources):
            raise ServableError("its graph has resources that can't be told apart")
        self.outputs = dict(
            zip(sorted(function.structured_outputs), (tensor.name for tensor in frozen.outputs), strict=True)
        )
        self._shapes = {name: tensor.shape for name, tensor in function.structured_outputs.items()}

    def function(self) -> Any:
        """A concrete function of the graph."""
        import tensorflow as tf

        imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(self.graph_def, name=""), [])
        graph = imported.graph
        pruned = imported.prune(
            [graph.as_graph_element(name) for name in (*self.inputs.values(), *self.resources)],
            [graph.as_graph_element(name) for name in self.outputs.values()],
        )
        # The graph's resources hold no shapes; the answers keep those that were declared.
        shapes, handles, outputs = self._shapes, self._handles, list(self.outputs)

        def run(**inputs: Any) -> dict[str, Any]:
            tensors = pruned(*(inputs[name] for name in sorted(inputs)), *handles)
            return {name: tf.ensure_shape(tensor, shapes[name]) for name, tensor in zip(outputs, tensors, strict=True)}

        return tf.function(run).get_concrete_function(**self._specs)


def _worst(functions: Mapping[str, Any], requests: Sequence[GoldenRequest], judge: Judge) -> str:
    """What is wrong with the first answer that is too far from the golden one; '' when none is."""
    for request in requests:
        answered = _ask(functions, request)
        for name, golden in request.outputs.items():
            difference = judge.judge(answered[name], golden)
            if difference.verdict == "different":
                return f"signature {request.signature!r}, output {name!r}: {describe(difference)}"
    return ""


def _ask(functions: Mapping[str, Any], request: GoldenRequest) -> dict[str, Any]:
    import tensorflow as tf

    function = functions[request.signature]
    _, specs = function.structured_input_signature
    inputs = {name: tf.constant(array, specs[name].dtype) for name, array in request.inputs.items()}
    return {name: tensor.numpy() for name, tensor in function(**inputs).items()}


def _size(servable: Servable, functions: Mapping[str, Any], folder: Path) -> int:
    write_savedmodel(servable, functions, folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _seconds(
    before: Mapping[str, Any], after: Mapping[str, Any], requests: Sequence[GoldenRequest]
) -> tuple[float, float]:
    """The median time of the first golden request, in turns, so that what else the machine does is in both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for functions, measured in zip((before, after), times, strict=True):
            start = time.perf_counter()
            _ask(functions, requests[0])
            measured.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
