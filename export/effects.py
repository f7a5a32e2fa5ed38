"""Finds why a signature may return different outputs for the same request: it changes state or draws random numbers.

Stateful operations are found in the graph: in a signature's traced function, before anything is written, and in any
SavedModel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tfserving.export.findings import Finding
from tfserving.foundation.graph import SAME, Graph, Node
from tfserving.foundation.operations.effects import draws, leaves_state

# Keras keeps the state of its random numbers in a variable of this name
# (https://github.com/keras-team/keras/blob/v3.12.0/keras/src/random/seed_generator.py).
SEED_STATE = "seed_generator_state"
# A variable that lives for one request.
TEMPORARY = "TemporaryVariable"
# TensorFlow's name of a variable without a name: its path in the model is more useful.
NAMELESS = re.compile(r"Variable(_\d+)?:0")
# Their first input selects the function that is called.
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
CLOCK = "Timestamp"
SHOWN = 3


def traced_effects(name: str, function: Any, resources: Mapping[int, str]) -> list[Finding]:
    """Return the findings in the concrete `function` of signature `name`.

    `resources` maps the `id` of a captured resource to the path of the model's table or variable.
    """
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    inner = function.graph
    graph = Graph(MetaGraphDef(graph_def=inner.as_graph_def()))
    named = [variable for variable in inner.variables if not NAMELESS.fullmatch(variable.name)]
    known = {**resources, **{id(variable.handle): variable.name for variable in named}}
    # The variables and tables that a function uses are inputs of its graph.
    names = {inside.op.name: known[id(outside)] for outside, inside in inner.captures if id(outside) in known}
    # TensorFlow runs all stateful operations of a function, even if no output depends on them.
    reach = graph.reach(graph.scope())
    return list(_found(name, graph, (node for node in graph if node in reach), names))


def written_effects(name: str, graph: Graph) -> Iterator[Finding]:
    """Return the findings in the `graph` of a SavedModel, for its signature `name`."""
    names = {
        node.message.name: node.message.attr["shared_name"].s.decode(errors="replace") or node.message.name
        for node in graph.scope().values()
        if node.op in ("VarHandleOp", "VariableV2", "Variable")
    }
    return _found(name, graph, graph.nodes(name), names)


def _found(signature: str, graph: Graph, nodes: Iterable[Node], names: dict[str, str]) -> Iterator[Finding]:
    state: dict[str, Node] = {}
    chance: dict[str, Node] = {}
    found = [node for node in nodes if leaves_state(node.message) or draws(node.message)]
    callers = _callers(graph) if found else {}
    for node in found:
        origins = _origins(graph, callers, node)
        if origins and all(name in graph.scope() and graph.scope()[name].op == TEMPORARY for name in origins):
            continue
        variables = sorted(names[name].removesuffix(":0") for name in origins if name in names)
        seeds = draws(node.message) or any(SEED_STATE in variable for variable in variables)
        for what in variables or [str(node)]:
            (chance if seeds else state).setdefault(what, node)
    where = f"signature {signature!r}"
    if chance:
        does = "reads the clock" if all(node.op == CLOCK for node in chance.values()) else "draws random numbers"
        yield Finding(
            "random",
            where,
            f"it {does}: {_listed(chance)}. The same request gets another response each time, so none can be verified",
            "Call the model with training=False, or take a seed as an input and draw with tf.random.stateless_uniform, "
            "stateless_normal or stateless_categorical (docs/lint.md#random)",
        )
    if state:
        yield Finding(
            "state",
            where,
            f"a request changes {_listed(state)}, and so the responses to later requests of all clients",
            "Take the state as an input and return it as an output. If it belongs to a layer such as batch "
            "normalization, call the model with training=False (docs/lint.md#state)",
        )


def _callers(graph: Graph) -> dict[str, list[tuple[Node, int]]]:
    """Return by function the nodes that call it, and the index of the input that is its first argument."""
    callers: dict[str, list[tuple[Node, int]]] = {}
    for node in graph:
        called = {node.op} if graph.is_function(node.op) else set()
        for value in node.message.attr.values():
            called |= {function.name for function in (value.func, *value.list.func) if function.name}
        for name in called:
            callers.setdefault(name, []).append((node, 1 if node.op in BRANCHES else 0))
    return callers


def _origins(graph: Graph, callers: Mapping[str, list[tuple[Node, int]]], node: Node) -> set[str]:
    """Return the nodes of the main graph that produce the first input of `node`, through the calls that lead to it."""
    found: set[str] = set()
    waiting = [(node.function, tensor) for tensor in node.inputs[:1]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        function, name = place[0], place[1].partition(":")[0]
        made_by = graph.scope(function).get(name)
        if made_by and made_by.op in SAME:
            waiting += [(function, tensor) for tensor in made_by.inputs[:1]]
        elif not function:
            found.add(name)
        elif not made_by:
            arguments = [argument.name for argument in graph.function(function).signature.input_arg]
            for caller, first in callers.get(function, []) if name in arguments else ():
                index = first + arguments.index(name)
                waiting += [(caller.function, tensor) for tensor in caller.inputs[index : index + 1]]
    return found


def _listed(found: dict[str, Node]) -> str:
    """Return the variables with the operations that change them, or operations alone where the variable is unknown."""
    texts = [what if what == str(node) else f"{what} ({node.op})" for what, node in found.items()]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
