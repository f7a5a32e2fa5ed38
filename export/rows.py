"""The rows of a golden request: how many it has, and the answers to some of them."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


def rows_in(inputs: Mapping[str, Array]) -> int | None:
    """How many rows `inputs` have; None when they are not of as many rows each: single values, ragged parts."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def batch_of(request: GoldenRequest) -> int:
    """How many rows `request` has; 1 when its inputs have no batch in common."""
    rows = rows_in(request.inputs)
    return 1 if rows is None else rows


def described(inputs: Mapping[str, Array]) -> str:
    """What errors call a request with these `inputs`."""
    rows = rows_in(inputs)
    if rows is not None:
        return f"a batch of {rows}"
    return "inputs of shapes " + ", ".join(f"{name!r} {array.shape}" for name, array in inputs.items())


def rows_of(request: GoldenRequest, rows: slice, outputs: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The answers to some rows of `request`, or of other `outputs` to it: of those that have a row for each."""
    batch = batch_of(request)
    outputs = request.outputs if outputs is None else outputs
    return {name: array[rows] for name, array in outputs.items() if array.shape[:1] == (batch,)}
