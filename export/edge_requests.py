"""The golden request with edge values: those that the live model answers without answering other rows otherwise."""

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

# Beside the edge values there is a row that has none.
ORDINARY = ""
LIMITS = ("largest", "smallest")
# An edge value's name, and a batch of one row that has it.
Edge = tuple[str, Mapping[str, Array]]


# Why no golden request has an edge value: the model raises an error, it returns something else for the rows beside it,
# or the graph computes something else of it than the model's Python, which is normal.
Why = Literal["fails", "changes", "differs"]
_TOLD: Mapping[Why, str] = {
    "fails": "fails on these edge values",
    "changes": "answers other rows otherwise beside these edge values",
    "differs": "computes something else of these edge values in the graph than in Python",
}


@dataclass(frozen=True)
class LeftOut:
    """Edge values that no golden request to `signature` has."""

    signature: str
    why: Why
    edges: tuple[str, ...]

    @property
    def is_normal(self) -> bool:
        """Whether nobody needs to look at it: fused operations make what they like of NaN."""
        return self.why == "differs"

    def __str__(self) -> str:
        return f"signature {self.signature!r} {_TOLD[self.why]}, so no golden request has them: {', '.join(self.edges)}"


Note = Callable[[LeftOut], None]


def by_signature(left_out: Iterable[LeftOut]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The edge values that were left out, by signature and by why, as a manifest has them."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for one in left_out:
        found.setdefault(one.signature, {})[one.why] = one.edges
    return found


@dataclass(frozen=True)
class EdgeRequest(GoldenRequest):
    """A golden request with edge values: `edges` says what each row has, ORDINARY for none."""

    edges: tuple[str, ...] = ()

    def disputed(self, answered: Mapping[str, Array], judge: Judge, *, rewritten: bool) -> set[int]:
        """The rows that are `answered` otherwise because NaN, infinity or a limit of the type is on the way.

        What becomes of NaN and infinity depends on the kernel: on some processors TensorFlow's fused layers make a zero
        of NaN where its relu leaves it. In a graph that Grappler has `rewritten` sums and products are computed in
        another order, which the largest and smallest numbers may not survive. Rows that are answered otherwise for no
        such reason are not among them.
        """
        rows = set()
        for row, edge in enumerate(self.edges):
            mine, other = (rows_of(self, slice(row, row + 1), outputs) for outputs in (self.outputs, answered))
            same = agree(judge, mine, other)
            if not same and edge != ORDINARY and is_excused(edge, mine, other, rewritten=rewritten):
                rows.add(row)
        return rows

    def without(self, rows: Collection[int]) -> EdgeRequest | None:
        """The request, and its answers, without some of its rows; None when nothing is left."""
        kept = [row for row in range(len(self.edges)) if row not in rows]
        return EdgeRequest(
            self.signature,
            {name: array[kept] for name, array in self.inputs.items()},
            {**self.outputs, **{name: array[kept] for name, array in rows_of(self, slice(None)).items()}},
            self.method,
            tuple(self.edges[row] for row in kept),
        )

    def left_out(self, rows: Collection[int]) -> LeftOut:
        """What is to be known of rows that are disputed."""
        return LeftOut(self.signature, "differs", tuple(self.edges[row] for row in sorted(rows)))


def edge_request(
    live: LiveSignature,
    judge: Judge,
    ordinary: GoldenRequest,
    examples: Mapping[str, Array],
    note: Note,
) -> EdgeRequest | None:
    """One request with every edge value that the model answers, without another answer to the `ordinary` row.

    `note` is told of the others. None when there is no such value.
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
    """A request with those edge values that can be asked; the others are told."""
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
    """The edge values `rows` and the `ordinary` row in one request; None when that row is answered otherwise."""
    if not rows:
        return None
    batches = [*(row for _, row in rows), ordinary.inputs]
    asked = live.ask({name: np.concatenate([batch[name] for batch in batches]) for name in ordinary.inputs})
    if not agree(judge, rows_of(asked, slice(len(rows), None)), ordinary.outputs):
        return None
    edges = (*(edge for edge, _ in rows), ORDINARY)
    return EdgeRequest(asked.signature, asked.inputs, asked.outputs, asked.method, edges)


def is_excused(edge: str, mine: Mapping[str, Array], other: Mapping[str, Array], *, rewritten: bool) -> bool:
    """Whether different answers to `edge`, `mine` and `other`, may come from what kernels make of such values.

    `rewritten` is as in `EdgeRequest.disputed`.
    """
    return edge == "nan" or (rewritten and edge in LIMITS) or not (_is_finite(mine) and _is_finite(other))


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    # bfloat16 is of numpy's kind V.
    return all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind in "fcV")
