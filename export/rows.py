"""The rows of a golden request: their number, and the outputs for some of them."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


def rows_in(inputs: Mapping[str, Array]) -> int | None:
    """Return the number of rows in `inputs`; None when it differs between them, as for scalars and ragged parts."""
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def batch_of(request: GoldenRequest) -> int:
    """Return the number of rows in `request`; 1 when its inputs share no batch dimension."""
    rows = rows_in(request.inputs)
    return 1 if rows is None else rows


def described(inputs: Mapping[str, Array]) -> str:
    """Return how errors describe a request with these `inputs`."""
    rows = rows_in(inputs)
    if rows is not None:
        return f"a batch of {rows}"
    return "inputs of shapes " + ", ".join(f"{name!r} {array.shape}" for name, array in inputs.items())


def rows_of(request: GoldenRequest, rows: slice, outputs: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Return some rows of the outputs of `request`, or of other `outputs`, that have a row for each input row."""
    batch = batch_of(request)
    outputs = request.outputs if outputs is None else outputs
    return {name: array[rows] for name, array in outputs.items() if array.shape[:1] == (batch,)}
