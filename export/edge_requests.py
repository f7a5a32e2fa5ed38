"""The golden request with edge values: those that the live model accepts and that don't change other rows' outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfserving.export.agreement import agree
from tfserving.export.edges import edge_rows
from tfserving.export.errors import LintError, ServableError
from tfserving.export.live import LiveSignature
from tfserving.export.rows import rows_of
from tfserving.export.tolerances import Judge
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array

# Beside the edge values there is a row without one.
ORDINARY = ""
LIMITS = ("largest", "smallest")
# The name of an edge value, and a batch of one row that contains it.
Edge = tuple[str, Mapping[str, Array]]


# Why no golden request contains an edge value: the model raises an error, the value changes the outputs of other rows,
# or the graph and the model's Python code return different outputs for it, which is normal.
Why = Literal["fails", "changes", "differs"]
_REASONS: Mapping[Why, str] = {
    "fails": "raises an error for these edge values",
    "changes": "returns other outputs for the rows beside these edge values",
    "differs": "returns other outputs for these edge values in the graph than in Python",
}


@dataclass(frozen=True)
class LeftOut:
    """Edge values that no golden request to `signature` contains."""

    signature: str
    why: Why
    edges: tuple[str, ...]

    @property
    def is_normal(self) -> bool:
        """Whether it can be ignored: the result of fused operations for NaN is not defined."""
        return self.why == "differs"

    def __str__(self) -> str:
        edges = ", ".join(self.edges)
        return f"signature {self.signature!r} {_REASONS[self.why]}, so no golden request contains them: {edges}"


Note = Callable[[LeftOut], None]


def by_signature(left_out: Iterable[LeftOut]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the edge values that were left out, by signature and reason, as in a manifest."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for one in left_out:
        reasons = found.setdefault(one.signature, {})
        reasons[one.why] = tuple(dict.fromkeys((*reasons.get(one.why, ()), *one.edges)))
    return found


@dataclass(frozen=True)
class EdgeRequest(GoldenRequest):
    """A golden request with edge values: `edges` has the name of each row's value, or ORDINARY."""

    edges: tuple[str, ...] = ()

    def disputed(self, outputs: Mapping[str, Array], judge: Judge, *, rewritten: bool) -> set[int]:
        """Return the rows whose `outputs` differ because of NaN, infinity or a limit of the dtype.

        The result for NaN and infinity depends on the kernel: on some processors, TensorFlow's fused layers turn NaN
        into zero where its relu keeps it. In a graph that Grappler has `rewritten`, sums and products are computed in
        another order, which can overflow for the largest and smallest numbers. Rows that differ for another reason are
        not returned.
        """
        rows = set()
        for row, edge in enumerate(self.edges):
            mine, other = (rows_of(self, slice(row, row + 1), found) for found in (self.outputs, outputs))
            same = agree(judge, mine, other)
            if not same and edge != ORDINARY and is_excused(edge, mine, other, rewritten=rewritten):
                rows.add(row)
        return rows

    def without(self, rows: Collection[int]) -> EdgeRequest | None:
        """Return the request and its outputs without some of its rows; None when no row is left."""
        kept = [row for row in range(len(self.edges)) if row not in rows]
        return EdgeRequest(
            self.signature,
            {name: array[kept] for name, array in self.inputs.items()},
            {**self.outputs, **{name: array[kept] for name, array in rows_of(self, slice(None)).items()}},
            self.method,
            tuple(self.edges[row] for row in kept),
        )

    def left_out(self, rows: Collection[int]) -> LeftOut:
        """Return the edge values of rows that are disputed."""
        return LeftOut(self.signature, "differs", tuple(self.edges[row] for row in sorted(rows)))


def edge_request(
    live: LiveSignature,
    judge: Judge,
    ordinary: GoldenRequest,
    examples: Mapping[str, Array],
    note: Note,
) -> EdgeRequest | None:
    """Return a request with all edge values that the model accepts and that don't change the `ordinary` row's output.

    `note` is called with the others. None when there are no such values.
    """
    rows = list(edge_rows(live.signature, examples))
    try:
        together = _beside(live, judge, ordinary, rows)
    except LintError:
        raise
    except ServableError:
        together = None
    if rows and together is None:
        together = _one_by_one(live, judge, ordinary, rows, note)
    return together


def _one_by_one(
    live: LiveSignature, judge: Judge, ordinary: GoldenRequest, rows: Iterable[Edge], note: Note
) -> EdgeRequest | None:
    """Return a request with the edge values that can be used; `note` is called with the others."""
    refused, changing = [], []
    kept: list[Edge] = []
    together = None
    for edge, row in rows:
        try:
            more = _beside(live, judge, ordinary, [*kept, (edge, row)])
        except ServableError:
            refused.append(edge)
            continue
        if more is None:
            changing.append(edge)
        else:
            kept.append((edge, row))
            together = more
    if refused:
        note(LeftOut(live.name, "fails", tuple(refused)))
    if changing:
        note(LeftOut(live.name, "changes", tuple(changing)))
    return together


def _beside(live: LiveSignature, judge: Judge, ordinary: GoldenRequest, rows: Sequence[Edge]) -> EdgeRequest | None:
    """Return the edge values `rows` and the `ordinary` row in one request; None when that row's output changes."""
    if not rows:
        return None
    batches = [*(row for _, row in rows), ordinary.inputs]
    request = live.run({name: np.concatenate([batch[name] for batch in batches]) for name in ordinary.inputs})
    if not agree(judge, rows_of(request, slice(len(rows), None)), ordinary.outputs):
        return None
    edges = (*(edge for edge, _ in rows), ORDINARY)
    return EdgeRequest(request.signature, request.inputs, request.outputs, request.method, edges)


def is_excused(edge: str, mine: Mapping[str, Array], other: Mapping[str, Array], *, rewritten: bool) -> bool:
    """Return whether different outputs for `edge`, `mine` and `other`, can come from how kernels treat such values.

    `rewritten` is as in `EdgeRequest.disputed`.
    """
    return edge == "nan" or (rewritten and edge in LIMITS) or not (_is_finite(mine) and _is_finite(other))


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    # The kind of bfloat16 in numpy is V.
    return all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind in "fcV")
