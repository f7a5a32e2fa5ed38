"""Golden requests: example inputs with the answers that the live model gave, before anything was published."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfserving.export.agreement import agree, require_equal, require_steady
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

# These batches are asked for whatever the sizes that are served: a single row, two, and an odd number.
ALWAYS = (1, 2, 7)
LARGEST = 32


def golden_requests(
    servable: Servable,
    judge: Judge | None = None,
    batch_sizes: Sequence[int] = (LARGEST,),
    given: Iterable[Given] = (),
    note: Note = lambda _: None,
    allow: Collection[str] = (),
) -> Iterator[GoldenRequest]:
    """Asks the live model for every signature, for batches of 1, 2, 7 and `batch_sizes` rows, and edge values.

    A signature without a batch is asked for each of its examples, of more than 32 for some. The requests in `given`
    follow. `note` is told of edge values that are left out: those that the model refuses, and
    those that change other rows' answers. Raises ServableError for a signature that does not answer exactly its
    outputs, that answers the same request differently the second time, or a row differently in another batch, and for
    an answer to a given request that is not the one given with it.
    """
    judge = judge or Judge()
    live = {name: LiveSignature(name, signature, allow) for name, signature in servable.signatures.items()}
    for name, one in live.items():
        if one.signature.batched:
            yield from _requests(one, judge, servable.examples[name], batch_sizes, note)
        else:
            yield from unbatched_requests(one, judge, servable.examples[name], note)
    for request in given:
        yield _ask_given(live[request.signature], judge, request)


def _requests(
    live: LiveSignature,
    judge: Judge,
    examples: Mapping[str, Array],
    batch_sizes: Sequence[int],
    note: Note,
) -> Iterator[GoldenRequest]:
    """Those of one signature, made of its `examples`."""
    sizes = _fixed_sizes(live.signature) or _sizes(batch_sizes)
    large = _ask_rows(live, examples, slice(0, sizes[-1]))
    if len(sizes) == 1:
        require_steady(judge, large, live.ask(large.inputs))
    start = 0
    ordinary = None
    for size in sizes[:-1]:
        # The small ones do not overlap where they needn't, and all lie in the large one.
        start = start if start + size <= sizes[-1] else 0
        rows = slice(start, start + size)
        small = _ask_rows(live, examples, rows)
        whole = rows_of(large, rows)
        if not agree(judge, whole, small.outputs):
            require_steady(judge, small, live.ask(small.inputs))
        require_equal(
            judge,
            GoldenRequest(live.name, small.inputs, whole),
            small,
            f"the examples' rows {rows.start} to {rows.stop - 1} are answered differently in a batch of "
            f"{size} and in one of {sizes[-1]}",
            "servers put requests together, so a row's answer can't depend on the other rows",
        )
        start += size
        yield small
        if size == 1:
            ordinary = small
    yield large
    if live.signature.defaults:
        yield live.ask({name: array[:2] for name, array in examples.items() if name not in live.signature.defaults})
    if ordinary and (edges := edge_request(live, judge, ordinary, examples, note)):
        yield edges


def _sizes(batch_sizes: Sequence[int]) -> list[int]:
    return sorted({*batch_sizes, *(size for size in ALWAYS if size <= max(batch_sizes))})


def _fixed_sizes(signature: Signature) -> list[int]:
    """The only batch size that the signature takes, when it has a fixed one."""
    sizes = {spec.shape[0] for spec in signature.inputs.values() if spec.shape}
    return sorted({size for size in sizes if size is not None})[:1]


def _ask_rows(live: LiveSignature, examples: Mapping[str, Array], rows: slice) -> GoldenRequest:
    # Fewer examples than rows are repeated.
    indices = np.arange(rows.start, rows.stop)
    return live.ask({name: array[indices % len(array)] for name, array in examples.items()})


def _ask_given(live: LiveSignature, judge: Judge, given: Given) -> GoldenRequest:
    """The given request with the live model's answer, which must be the one that was given, if any was."""
    try:
        request = live.ask(given.inputs)
    except ServableError as error:
        raise ServableError(f"{given.where}: {error}") from None
    if given.outputs is not None:
        wanted = {name: wire_array(array) for name, array in given.wanted(request.outputs).items()}
        require_equal(
            judge,
            GoldenRequest(live.name, given.inputs, wanted),
            request,
            f"{given.where} is answered otherwise than it says",
            "correct the file, or the model",
        )
    return request
