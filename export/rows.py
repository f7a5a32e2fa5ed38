"""The rows of a golden request: how many it has, and the answers to some of them."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


def batch_of(request: GoldenRequest) -> int:
    """How many rows `request` has."""
    return len(next(iter(request.inputs.values())))


def rows_of(request: GoldenRequest, rows: slice, outputs: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The answers to some rows of `request`, or of other `outputs` to it: of those that have a row for each."""
    batch = batch_of(request)
    outputs = request.outputs if outputs is None else outputs
    return {name: array[rows] for name, array in outputs.items() if array.shape[:1] == (batch,)}
