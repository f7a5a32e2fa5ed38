"""Groups golden requests that can be sent as the rows of one request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfserving.foundation.golden import GoldenRequest

MOST_ROWS = 1024
# Of inputs and outputs: in JSON a float needs five times its bytes, and servers accept 64 MiB by default.
MOST_BYTES = 8 * 1024 * 1024


def row_count(request: GoldenRequest) -> int | None:
    """Return the number of rows of a request; None when its inputs and outputs differ in it."""
    arrays = [*request.inputs.values(), *request.outputs.values()]
    sizes = {array.shape[0] if array.ndim else -1 for array in arrays}
    return sizes.pop() if len(sizes) == 1 and min(sizes) > 0 else None


def batches(requests: list[tuple[int, GoldenRequest]]) -> Iterator[list[tuple[int, GoldenRequest]]]:
    """Return groups of numbered requests that can be sent as one: their arrays differ only in the number of rows.

    A group has at most MOST_ROWS rows and MOST_BYTES bytes. A single request is in its group twice. There is no group
    unless every request has rows.
    """
    sizes = [row_count(request) for _, request in requests]
    if None in sizes:
        return
    grouped: dict[Any, list[tuple[int, GoldenRequest]]] = {}
    for number, request in requests:
        kind = tuple((name, array.dtype, array.shape[1:]) for name, array in request.inputs.items())
        grouped.setdefault(kind, []).append((number, request))
    for group in grouped.values():
        chosen: list[tuple[int, GoldenRequest]] = []
        total = size = 0
        for number, request in group if len(group) > 1 else group * 2:
            total += row_count(request) or 0
            size += sum(array.nbytes for array in (*request.inputs.values(), *request.outputs.values()))
            if (total <= MOST_ROWS and size <= MOST_BYTES) or not chosen:
                chosen.append((number, request))
        yield chosen
