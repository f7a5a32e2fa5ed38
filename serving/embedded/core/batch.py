"""A batch: the requests that run together, their rows in its memory, and its run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from tfserving.foundation.tensors import STRING, Array, dtype_of
from tfserving.serving.embedded.core.batch_memory import Memory, row_bytes
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.errors import Code, RequestError

Execute = Callable[[Sequence[Array]], list[Array]]

# Rows of at least this size are copied when they arrive, by their own threads. The leader concatenates smaller ones.
LARGE_ROW_BYTES = 16 << 10
# A batch has memory from the start unless it could take more than this.
MOST_BATCH_BYTES = 256 << 20
# Batches from this size on are concatenated in memory that is reused.
LARGE_BATCH_BYTES = 1 << 20


class Ticket:
    """A waiting request. `woken` is released when it has its result, or when it is `called` to lead."""

    __slots__ = ("arrays", "called", "copied", "error", "outputs", "place", "rows", "since", "until", "woken")

    def __init__(self, arrays: Sequence[Array], rows: int) -> None:
        self.arrays = arrays
        self.rows = rows
        # Its first row in the batch.
        self.place = 0
        self.copied = False
        # Its deadline, in seconds of time.monotonic.
        self.until = deadline.until
        self.since = time.monotonic()
        self.woken = threading.Lock()
        self.woken.acquire()
        self.called = False
        self.outputs: list[Array] | None = None
        self.error: RequestError | None = None


class Batch:
    """Requests that run together. `memory` has an array for each input, into which they copy their rows."""

    __slots__ = ("closed", "copied", "copying", "execute", "filled", "full", "memory", "rows", "tickets")

    def __init__(self, execute: Execute) -> None:
        self.execute = execute
        self.tickets: list[Ticket] = []
        self.rows = 0
        # No more requests fit. The leader that waits for this has set `filled`.
        self.full = False
        self.filled: threading.Event | None = None
        # No more requests may join. The leader that waits for the `copying` requests has set `copied`.
        self.closed = False
        self.memory: list[Array] | None = None
        self.copying = 0
        self.copied: threading.Event | None = None

    def fill(self) -> None:
        """Marks it as full."""
        self.full = True
        if self.filled is not None:
            self.filled.set()


class Queue:
    """The batches of one key that are not closed; only the last one takes requests."""

    __slots__ = ("batches", "key", "rows", "running")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.batches: deque[Batch] = deque()
        self.rows = 0
        # The rows of its closed batches that are not complete.
        self.running: list[int] = []


def copied_early(ticket: Ticket, parameters: Parameters) -> bool:
    """Returns whether the rows of `ticket` are copied into the batch's memory when they arrive."""
    sizes = [row_bytes(array) for array in ticket.arrays]
    return (
        max(sizes) >= LARGE_ROW_BYTES
        and sum(sizes) * capacity(parameters) <= MOST_BATCH_BYTES
        and not parameters.pad_variable_length_inputs
        and not any(array.dtype.hasobject for array in ticket.arrays)
    )


def capacity(parameters: Parameters) -> int:
    """Returns the most rows of a batch, with its padding."""
    return max(parameters.largest, *parameters.allowed_batch_sizes[-1:], 1)


def copy_rows(memory: Sequence[Array], ticket: Ticket) -> None:
    """Copies the rows of `ticket` to their place in the batch's memory."""
    for into, array in zip(memory, ticket.arrays, strict=True):
        into[ticket.place : ticket.place + ticket.rows] = array
    ticket.copied = True


def run_batch(batch: Batch, memory: Memory, parameters: Parameters) -> list[Array] | None:
    """Runs a closed batch; returns its outputs. When it fails it runs each request alone, and returns None."""
    tickets = batch.tickets
    # The batch runs until the latest deadline of its requests.
    ends = [ticket.until for ticket in tickets]
    until = None if None in ends else max(end for end in ends if end is not None)
    try:
        return _execute(batch.execute, *_merged(batch, memory, parameters), until)
    except RequestError as error:
        if len(tickets) == 1:
            tickets[0].error = error
            return None
    for ticket in tickets:
        alone = Batch(batch.execute)
        alone.tickets, alone.rows = [ticket], ticket.rows
        try:
            outputs = _execute(batch.execute, *_merged(alone, memory, parameters), ticket.until)
            ticket.outputs = part_of(outputs, ticket)
        except RequestError as error:
            ticket.error = error
    return None


def _execute(execute: Execute, arrays: Sequence[Array], rows: int, until: float | None) -> list[Array]:
    own, deadline.until = deadline.until, until
    try:
        outputs = execute(arrays)
    finally:
        deadline.until = own
    for output in outputs:
        _check_output(output, rows)
    return outputs


def part_of(outputs: Sequence[Array], ticket: Ticket) -> list[Array]:
    """Returns the rows of `ticket` in the outputs of its batch."""
    return [output[ticket.place : ticket.place + ticket.rows] for output in outputs]


def _merged(batch: Batch, memory: Memory, parameters: Parameters) -> tuple[list[Array], int]:
    """Returns the inputs of all requests of a batch, padded to an allowed size, and that size.

    Padding rows are copies of a real row.
    """
    tickets = batch.tickets
    if batch.memory is not None and (len(tickets) > 1 or tickets[0].copied):
        for ticket in tickets:
            if not ticket.copied:
                copy_rows(batch.memory, ticket)
        size = parameters.size(batch.rows)
        for array in batch.memory:
            array[batch.rows : size] = array[:1]
        return [array[:size] for array in batch.memory], size
    rows = 0
    for ticket in tickets:
        ticket.place = rows
        rows += ticket.rows
    size = parameters.size(rows)
    if len(tickets) == 1 and size == rows:
        return list(tickets[0].arrays), size
    merged = []
    for arrays in zip(*(ticket.arrays for ticket in tickets), strict=True):
        parts = _padded(arrays)
        is_large = row_bytes(parts[0]) * size >= LARGE_BATCH_BYTES and not parts[0].dtype.hasobject
        into = memory.arrays(parts[:1], size)[0] if is_large else None
        merged.append(np.concatenate([*parts, *[parts[0][:1]] * (size - rows)], out=into))
    return merged, size


def _padded(arrays: Sequence[Array]) -> list[Array]:
    """Pads all dimensions of `arrays` but the first to those of the largest."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) == 1:
        return list(arrays)
    largest = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    return [_pad(array, largest) for array in arrays]


def _pad(array: Array, shape: Sequence[int]) -> Array:
    widths = [(0, 0), *((0, size - there) for size, there in zip(shape, array.shape[1:], strict=True))]
    if dtype_of(array) is not STRING:
        return np.pad(array, widths)
    padded = np.full((array.shape[0], *shape), b"", object)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def rows_of(arrays: Sequence[Array]) -> int:
    """Returns the number of rows. Raises RequestError INVALID_ARGUMENT when the arrays don't have the same."""
    for array in arrays:
        if not array.shape:
            text = "Batching Run() input tensors must have at least one dimension"
            raise RequestError(Code.INVALID_ARGUMENT, text)
        if array.shape[0] != arrays[0].shape[0]:
            text = "Batching Run() input tensors must have equal 0th-dimension size"
            raise RequestError(Code.INVALID_ARGUMENT, text)
    return arrays[0].shape[0] if arrays else 0


def shapes_of(arrays: Sequence[Array], *, padded: bool) -> Hashable:
    """Returns the common key of arrays that can be concatenated: their shapes, or their ranks when they are padded."""
    return tuple((array.dtype.str, array.ndim if padded else array.shape[1:]) for array in arrays)


def _check_output(output: Array, rows: int) -> None:
    if not output.shape:
        raise RequestError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
    if output.shape[0] != rows:
        text = (
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            "tensors"
        )
        raise RequestError(Code.FAILED_PRECONDITION, text)
