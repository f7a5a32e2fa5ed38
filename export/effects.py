"""Why a signature may answer the same request otherwise the next time: it assigns something, or draws random numbers.

What TensorFlow calls stateful is found in the graph: in a signature's traced function, before anything is written, and
in any SavedModel, whatever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tfserving.export.findings import Finding
from tfserving.foundation.graph import Graph, Node
from tfserving.foundation.operations.effects import draws, leaves_state

# Keras keeps the state of its random numbers in a variable of this name
# (https://github.com/keras-team/keras/blob/v3.12.0/keras/src/random/seed_generator.py).
SEED_STATE = "seed_generator_state"
# Made for one request, and gone with it.
TEMPORARY = "TemporaryVariable"
SHOWN = 3


def traced_effects(name: str, function: Any) -> list[Finding]:
    """What is found in the concrete `function` of signature `name`."""
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    inner = function.graph
    graph = Graph(MetaGraphDef(graph_def=inner.as_graph_def()))
    variables = {id(variable.handle): variable.name for variable in inner.variables}
    # A function takes the variables that it uses as inputs of its own.
    names = {
        f"{inside.op.name}:0": variables[id(outside)] for outside, inside in inner.captures if id(outside) in variables
    }
    # TensorFlow runs everything stateful in a function, also where no output depends on it.
    reach = graph.reach(graph.scope())
    return list(_found(name, graph, (node for node in graph if node in reach), names))


def written_effects(name: str, graph: Graph) -> Iterator[Finding]:
    """What is found in the `graph` of a SavedModel, behind its signature `name`."""
    names = {
        f"{node.message.name}:0": (node.message.attr["shared_name"].s.decode(errors="replace") or node.message.name)
        for node in graph.scope().values()
        if node.op in ("VarHandleOp", "VariableV2", "Variable")
    }
    return _found(name, graph, graph.nodes(name), names)


def _found(signature: str, graph: Graph, nodes: Iterable[Node], names: dict[str, str]) -> Iterator[Finding]:
    state: dict[str, Node] = {}
    chance: dict[str, Node] = {}
    for node in nodes:
        if not (leaves_state(node.message) or draws(node.message)):
            continue
        origins = graph.origins(node, 0)
        if {TEMPORARY} == {graph.scope()[tensor.partition(":")[0]].op for tensor in origins}:
            continue
        variables = sorted(names[tensor].removesuffix(":0") for tensor in origins if tensor in names)
        seeds = draws(node.message) or any(SEED_STATE in variable for variable in variables)
        found = chance if seeds else state
        for what in variables or [str(node)]:
            found.setdefault(what, node)
    where = f"signature {signature!r}"
    if chance:
        yield Finding(
            "random",
            where,
            f"it draws random numbers: {_listed(chance)}; a request is answered otherwise each time, so no answer can "
            "be verified",
            "call the model with training=False, or take a seed as an input and draw with tf.random.stateless_uniform, "
            "stateless_normal or stateless_categorical",
        )
    if state:
        yield Finding(
            "state",
            where,
            f"a request changes {_listed(state)}, and so the answer to the next one, whoever sends it",
            "take the state as an input and return it as an output; where it is a layer's, such as batch "
            "normalization's, call the model with training=False",
        )


def _listed(found: dict[str, Node]) -> str:
    """Variables, each with the operation that changes it; operations alone where the variable isn't known."""
    texts = [what if what == str(node) else f"{what} ({node.op})" for what, node in found.items()]
    more = [f"{len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join(texts[:SHOWN] + more)
