"""The functions of a graph, and which of them may call which."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# Grappler may swap a function for any other with the same value of this attribute.
_IMPLEMENTS = "api_implements"


@dataclass(frozen=True)
class Node:
    """An operation, and the function it is in ('' when it is in none)."""

    message: Any
    function: str

    @property
    def op(self) -> str:
        """The name of the operation: `MatMul`."""
        return str(self.message.op)

    @property
    def inputs(self) -> list[str]:
        """Its input tensors, without control inputs."""
        return [tensor for tensor in self.message.input if not tensor.startswith("^")]

    def __str__(self) -> str:
        return f"{self.op} ({self.message.name})"


class Library:
    """A FunctionDefLibrary, its functions by name."""

    def __init__(self, library: Any) -> None:
        self.functions = {function.signature.name: function for function in library.function}
        # What may run in place of a function, or with it: its gradient, and other implementations.
        self.companions: dict[str, list[str]] = defaultdict(list)
        for gradient in library.gradient:
            self.companions[gradient.function_name].append(gradient.gradient_func)
        for gradient in library.registered_gradients:
            self.companions[gradient.registered_op_type].append(gradient.gradient_func)
        for name, function in self.functions.items():
            if _IMPLEMENTS in function.attr:
                # No function has such a name. Each is a companion of it, and it of each.
                group = f"{_IMPLEMENTS}={function.attr[_IMPLEMENTS].s!r}"
                self.companions[name].append(group)
                self.companions[group].append(name)

    def body(self, function: str) -> Iterator[Node]:
        """The operations of a function."""
        return (Node(node, function) for node in self.functions[function].node_def)

    def named_by(self, node: Node) -> list[str]:
        """The functions that a node names, as its operation or in its attributes, as often as it names them."""
        return [
            name
            for name in (node.op, *_named(node.message.attr.values()))
            if name in self.functions or name in self.companions
        ]

    def named_beside(self, function: str) -> list[str]:
        """The functions that a function names itself, not its operations: in attributes and their defaults."""
        definition = self.functions[function]
        values = list(definition.attr.values())
        for argument in definition.arg_attr.values():
            values += argument.attr.values()
        values += [attribute.default_value for attribute in definition.signature.attr]
        return list(_named(values))

    def reach(self, names: Iterable[str]) -> frozenset[str]:
        """The functions that may run when those called `names` are named: rather too many than too few."""
        waiting = list(names)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += self.companions.get(name, ())
                waiting += self._mentions.get(name, ())
        return frozenset(seen & self.functions.keys())

    def calling(self, functions: Mapping[str, Node]) -> dict[str, Node]:
        """The names whose mention may have one of `functions` run, and the operation that is given for that one."""
        callers: dict[str, list[str]] = defaultdict(list)
        for mentions in (self.companions, self._mentions):
            for name, called in mentions.items():
                for function in called:
                    callers[function].append(name)
        found = dict(functions)
        waiting = list(functions)
        while waiting:
            name = waiting.pop()
            for caller in callers.get(name, ()):
                if caller not in found:
                    found[caller] = found[name]
                    waiting.append(caller)
        return found

    def nesting(self) -> tuple[float, float]:
        """How deep the functions call one another at most, and how many calls one call makes at most.

        Infinite when a function calls itself, directly or by others.
        """
        called = {
            name: [one for node in self.body(name) for one in self.named_by(node) if one in self.functions]
            for name in self.functions
        }
        callers: dict[str, set[str]] = defaultdict(set)
        for name, others in called.items():
            for other in others:
                callers[other].add(name)
        left = {name: len(set(others)) for name, others in called.items()}
        ready = [name for name, count in left.items() if not count]
        deep: dict[str, int] = {}
        calls: dict[str, float] = {}
        while ready:
            name = ready.pop()
            deep[name] = 1 + max((deep[other] for other in called[name]), default=0)
            # As floats, since they double from one function to the next.
            calls[name] = 1.0 + sum(calls[other] for other in called[name])
            for caller in callers[name]:
                left[caller] -= 1
                if not left[caller]:
                    ready.append(caller)
        if len(deep) < len(self.functions):
            return math.inf, math.inf
        return max(deep.values(), default=0), max(calls.values(), default=0)

    @cached_property
    def _mentions(self) -> Mapping[str, list[str]]:
        return {
            name: [*self.named_beside(name), *(one for node in self.body(name) for one in self.named_by(node))]
            for name in self.functions
        }


def _named(values: Iterable[Any]) -> Iterator[str]:
    """The functions that attributes name, inside one another, too."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        kind = value.WhichOneof("value")
        if kind in {"func", "list"}:
            for function in (value.func,) if kind == "func" else value.list.func:
                yield function.name
                waiting += function.attr.values()
