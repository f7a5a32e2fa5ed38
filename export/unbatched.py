"""Golden requests of a signature without a batch: each is one example, and requests can't be batched.

    examples, a sequence of arrays for each input ──► requests ──► each run twice ──► golden requests

The check of a batched signature, that a row gets the same outputs in every batch, doesn't apply. So each example is a
golden request, and is run twice.
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

# A server replays them all before the version is available.
MOST_EXAMPLES = 32


@dataclass(frozen=True)
class UnbatchedEdge(EdgeRequest):
    """A golden request with an edge value and no other rows."""

    def disputed(self, outputs: Mapping[str, Array], judge: Judge, *, rewritten: bool) -> set[int]:
        """Return {0} if its `outputs` are disputed; see `EdgeRequest`."""
        (edge,) = self.edges
        excused = is_excused(edge, self.outputs, outputs, rewritten=rewritten)
        return {0} if excused and not agree(judge, self.outputs, outputs) else set()

    def without(self, rows: Collection[int]) -> EdgeRequest | None:
        """Return None: without its edge value nothing is left."""
        return None if rows else self


def unbatched_requests(
    live: LiveSignature, judge: Judge, examples: Mapping[str, Sequence[Any]], note: Note
) -> Iterator[GoldenRequest]:
    """Yield the golden requests of a signature without a batch; see `golden_requests`."""
    requests = each_example(examples)
    count = min(len(requests), MOST_EXAMPLES)
    for inputs in (requests[number * len(requests) // count] for number in range(count)):
        request = live.run(inputs)
        require_steady(judge, request, live.run(inputs))
        yield request
    if live.signature.defaults:
        yield live.run({name: array for name, array in requests[0].items() if name not in live.signature.defaults})
    refused = []
    for edge in EDGES:
        if (changed := _with_edge(requests[0], edge)) is None:
            continue
        try:
            request = live.run(changed)
        except LintError:
            raise
        except ServableError:
            refused.append(edge)
        else:
            yield UnbatchedEdge(request.signature, request.inputs, request.outputs, request.method, (edge,))
    if refused:
        note(LeftOut(live.name, "fails", tuple(refused)))


def each_example(examples: Mapping[str, Sequence[Any]]) -> list[dict[str, Array]]:
    """Return the examples one by one, as arrays by input."""
    return [dict(zip(examples, map(one_array, values), strict=True)) for values in zip(*examples.values(), strict=True)]


def _with_edge(inputs: Mapping[str, Array], edge: str) -> dict[str, Array] | None:
    """Return `inputs` with `edge` for all floats and strings; None when their dtypes have no such value.

    Integers stay: they may be offsets of ragged parts or sizes, and wrong ones can crash the process.
    """
    changed = {name: replaced(array, edge) for name, array in inputs.items() if array.dtype.kind not in "biu"}
    if all(array is None for array in changed.values()):
        return None
    return {name: array if (new := changed.get(name)) is None else new for name, array in inputs.items()}
