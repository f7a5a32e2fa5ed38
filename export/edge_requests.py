"""The golden request with edge values: those that the live model answers without answering other rows otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
# An edge value's name, and a batch of one row that has it.
Edge = tuple[str, Mapping[str, Array]]


@dataclass(frozen=True)
class EdgeRequest(GoldenRequest):
    """A golden request with edge values: `edges` says what each row has, ORDINARY for none."""

    edges: tuple[str, ...] = ()

    def disputed(self, answered: Mapping[str, Array], judge: Judge) -> set[int]:
        """The rows that are `answered` otherwise because NaN or infinity is on the way.

        What becomes of those depends on the kernel: on some processors TensorFlow's fused layers make a zero of NaN
        where its relu leaves it. Rows that are answered otherwise for no such reason are not among them.
        """
        rows = set()
        for row, edge in enumerate(self.edges):
            mine, other = (rows_of(self, slice(row, row + 1), outputs) for outputs in (self.outputs, answered))
            same = agree(judge, mine, other)
            if not same and edge != ORDINARY and is_excused(edge, mine, other):
                rows.add(row)
        return rows

    def without(self, rows: Collection[int]) -> EdgeRequest | None:
        """The request, and its answers, without some of its rows; None when nothing would be left."""
        kept = [row for row in range(len(self.edges)) if row not in rows]
        return EdgeRequest(
            self.signature,
            {name: array[kept] for name, array in self.inputs.items()},
            {**self.outputs, **{name: array[kept] for name, array in rows_of(self, slice(None)).items()}},
            self.method,
            tuple(self.edges[row] for row in kept),
        )

    def told(self, rows: Collection[int]) -> str:
        """What is to be said of rows that are disputed."""
        edges = ", ".join(self.edges[row] for row in sorted(rows))
        return (
            f"signature {self.signature!r}: the graph makes something else of NaN or infinity than the model's Python, "
            f"so no golden request has these edge values: {edges}"
        )


def edge_request(
    live: LiveSignature,
    judge: Judge,
    ordinary: GoldenRequest,
    examples: Mapping[str, Array],
    note: Callable[[str], None],
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
    live: LiveSignature, judge: Judge, ordinary: GoldenRequest, rows: Iterable[Edge], note: Callable[[str], None]
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
    for why, edges in (("fails on", refused), ("answers other rows otherwise beside", changing)):
        if edges:
            told = ", ".join(edges)
            note(f"signature {live.name!r} {why} these edge values, so no golden request has them: {told}")
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


def is_excused(edge: str, mine: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether different answers to `edge`, `mine` and `other`, may be due to what a kernel makes of NaN or infinity."""
    return edge == "nan" or not (_is_finite(mine) and _is_finite(other))


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    # bfloat16 is of numpy's kind V.
    return all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind in "fcV")
