"""Golden requests of a signature without a batch: each is one example, and no two can be put together.

    examples, a sequence of arrays for each input ──► requests ──► each asked twice ──► golden requests

What proves a signature with a batch, that a row is answered the same in every batch, says nothing here. So each example
is a golden request, and is asked twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfserving.export.agreement import agree, require_steady
from tfserving.export.edge_requests import EdgeRequest, LeftOut, Note, is_excused
from tfserving.export.edges import EDGES, replaced
from tfserving.export.errors import LintError, ServableError
from tfserving.export.live import LiveSignature
from tfserving.export.servable import one_array
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array

# A server plays them all before the version is available.
MOST_EXAMPLES = 32


@dataclass(frozen=True)
class UnbatchedEdge(EdgeRequest):
    """A golden request with an edge value, and nothing beside it."""

    def disputed(self, answered: Mapping[str, Array], judge: Judge, *, rewritten: bool) -> set[int]:
        """As of a request with rows, of which this is one."""
        (edge,) = self.edges
        excused = is_excused(edge, self.outputs, answered, rewritten=rewritten)
        return {0} if excused and not agree(judge, self.outputs, answered) else set()

    def without(self, rows: Collection[int]) -> EdgeRequest | None:
        """None: without its edge value nothing is left."""
        return None if rows else self


def unbatched_requests(
    live: LiveSignature, judge: Judge, examples: Mapping[str, Sequence[Any]], note: Note
) -> Iterator[GoldenRequest]:
    """The golden requests of a signature without a batch: see `golden_requests`."""
    requests = each_example(examples)
    count = min(len(requests), MOST_EXAMPLES)
    for inputs in (requests[number * len(requests) // count] for number in range(count)):
        request = live.ask(inputs)
        require_steady(judge, request, live.ask(inputs))
        yield request
    if live.signature.defaults:
        yield live.ask({name: array for name, array in requests[0].items() if name not in live.signature.defaults})
    refused = []
    for edge in EDGES:
        if (changed := _with_edge(requests[0], edge)) is None:
            continue
        try:
            asked = live.ask(changed)
        except LintError:
            raise
        except ServableError:
            refused.append(edge)
        else:
            yield UnbatchedEdge(asked.signature, asked.inputs, asked.outputs, asked.method, (edge,))
    if refused:
        note(LeftOut(live.name, "fails", tuple(refused)))


def each_example(examples: Mapping[str, Sequence[Any]]) -> list[dict[str, Array]]:
    """The examples one by one: by input the first of each, the second of each, as arrays."""
    return [dict(zip(examples, map(one_array, values), strict=True)) for values in zip(*examples.values(), strict=True)]


def _with_edge(inputs: Mapping[str, Array], edge: str) -> dict[str, Array] | None:
    """`inputs` with `edge` for all floats and strings; None when that is no value of theirs.

    Integers stay: they may be the offsets of ragged parts, or sizes, and what breaks those ends a process.
    """
    changed = {name: replaced(array, edge) for name, array in inputs.items() if array.dtype.kind not in "biu"}
    if all(array is None for array in changed.values()):
        return None
    return {name: array if (new := changed.get(name)) is None else new for name, array in inputs.items()}
