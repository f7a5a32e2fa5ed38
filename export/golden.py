"""Golden requests: example inputs with the outputs of the live model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfserving.export.agreement import agree, is_rounding, require_equal, require_steady
from tfserving.export.edge_requests import Note, edge_request
from tfserving.export.errors import ServableError
from tfserving.export.given import Given
from tfserving.export.live import LiveSignature, wire_array
from tfserving.export.rows import rows_of
from tfserving.export.servable import Servable, Signature
from tfserving.export.tolerances import Judge
from tfserving.export.unbatched import unbatched_requests
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array

# These batch sizes are always used: a single row, two, and an odd number.
ALWAYS = (1, 2, 7)
LARGEST = 32
# Why the output of a row can differ between batches.
DEPENDS = "Servers batch requests, so the output of a row must not depend on the other rows."
ROUNDED = (
    "The difference is as small as rounding: kernels add in another order for another batch size. The tolerance does "
    "not allow for that much. Compute in float32 instead of float16 or bfloat16, or export on a processor: set "
    "CUDA_VISIBLE_DEVICES=-1."
)


def golden_requests(
    servable: Servable,
    judge: Judge | None = None,
    batch_sizes: Sequence[int] = (LARGEST,),
    given: Iterable[Given] = (),
    note: Note = lambda _: None,
    allow: Collection[str] = (),
) -> Iterator[GoldenRequest]:
    """Run every signature of the live model with batches of 1, 2, 7 and `batch_sizes` rows, and with edge values.

    A signature without a batch runs with its examples, at most 32 of them. The requests in `given` follow. `note` is
    called with edge values that are left out: those that the model rejects, and those that change the outputs of other
    rows. Raises ServableError for a signature that doesn't return exactly its outputs, that returns other outputs for
    the same request or for the same row in another batch, and for a given request with other outputs than expected.
    """
    judge = judge or Judge()
    live = {name: LiveSignature(name, signature, allow) for name, signature in servable.signatures.items()}
    for name, one in live.items():
        if one.signature.batched:
            yield from _requests(one, judge, servable.examples[name], batch_sizes, note)
        else:
            yield from unbatched_requests(one, judge, servable.examples[name], note)
    for request in given:
        yield _run_given(live[request.signature], judge, request)


def _requests(
    live: LiveSignature,
    judge: Judge,
    examples: Mapping[str, Array],
    batch_sizes: Sequence[int],
    note: Note,
) -> Iterator[GoldenRequest]:
    """Yield the requests of one signature, made of its `examples`."""
    sizes = _fixed_sizes(live.signature) or _sizes(batch_sizes)
    large = _run_rows(live, examples, slice(0, sizes[-1]))
    if len(sizes) == 1:
        require_steady(judge, large, live.run(large.inputs))
    start = 0
    ordinary = None
    for size in sizes[:-1]:
        # The small batches don't overlap if possible, and the large one contains them all.
        start = start if start + size <= sizes[-1] else 0
        rows = slice(start, start + size)
        small = _run_rows(live, examples, rows)
        whole = rows_of(large, rows)
        if not agree(judge, whole, small.outputs):
            require_steady(judge, small, live.run(small.inputs))
        which = f"rows {rows.start} to {rows.stop - 1} of the examples"
        require_equal(
            judge,
            GoldenRequest(live.name, small.inputs, whole),
            small,
            f"{which} get other outputs in a batch of {size} than in one of {sizes[-1]}",
            ROUNDED if is_rounding(whole, small.outputs) else DEPENDS,
        )
        start += size
        yield small
        if size == 1:
            ordinary = small
    yield large
    if live.signature.defaults:
        yield live.run({name: array[:2] for name, array in examples.items() if name not in live.signature.defaults})
    if ordinary and (edges := edge_request(live, judge, ordinary, examples, note)):
        yield edges


def _sizes(batch_sizes: Sequence[int]) -> list[int]:
    return sorted({*batch_sizes, *(size for size in ALWAYS if size <= max(batch_sizes))})


def _fixed_sizes(signature: Signature) -> list[int]:
    """Return the only batch size that the signature accepts, if it has a fixed one."""
    sizes = {spec.shape[0] for spec in signature.inputs.values() if spec.shape}
    return sorted({size for size in sizes if size is not None})[:1]


def _run_rows(live: LiveSignature, examples: Mapping[str, Array], rows: slice) -> GoldenRequest:
    # If there are fewer examples than rows, they are repeated.
    indices = np.arange(rows.start, rows.stop)
    return live.run({name: array[indices % len(array)] for name, array in examples.items()})


def _run_given(live: LiveSignature, judge: Judge, given: Given) -> GoldenRequest:
    """Return the given request with the live model's outputs, which must be the expected ones if there are any."""
    try:
        request = live.run(given.inputs)
    except ServableError as error:
        raise ServableError(f"{given.where}: {error}") from None
    if given.outputs is not None:
        expected = {name: wire_array(array) for name, array in given.expected(request.outputs).items()}
        require_equal(
            judge,
            GoldenRequest(live.name, given.inputs, expected),
            request,
            f"{given.where} expects other outputs than the model returns",
            "Correct the file or the model.",
        )
    return request
