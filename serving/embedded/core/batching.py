"""Batching: requests that wait at the same time run as one.

    request ──► the last batch of its queue ──► its rows are copied there ──► it waits for its result, or to lead
                 │ the batch is new, and a thread is free
                 └───────────────────────────────────────────────────────► it leads at once

    lead: wait for the batch timeout ──► close the batch ──► run ──► hand the thread to the next queue ──► the results

A request that is alone leads at once, in its own thread, without extra cost. A queue holds requests of one version, one
signature and one set of shapes, so they can be concatenated. When a batch fails, each of its requests runs once more
alone, so no client gets the error of another. Refusals have TensorFlow Serving's texts.

A GPU runs one batch at a time, and a small one takes almost as long as a large one. There the scheduler `fills`: while
a batch of a queue runs, the next one starts when it has as many rows, or when the other one ends. So the next one is on
the GPU before the other one ends, and both become equally large.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from tfserving.foundation.tensors import STRING, Array, dtype_of
from tfserving.serving.embedded.core.batch_memory import Memory, row_bytes
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.deadline import deadline, too_late
from tfserving.serving.embedded.core.pool import step_aside, step_back
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics

Execute = Callable[[Sequence[Array]], list[Array]]

# Rows of at least this size are copied when they arrive, by their own threads. The leader concatenates smaller ones.
LARGE_ROW_BYTES = 16 << 10
# A batch has memory from the start unless it could take more than this.
MOST_BATCH_BYTES = 256 << 20
# How long a batch's results wait on a GPU, so that the next one starts first.
HAND_ON_SECONDS = 0.0003
# Batches from this size on are concatenated in memory that is reused.
LARGE_BATCH_BYTES = 1 << 20


class _Ticket:
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


class _Batch:
    """Requests that run together. `memory` has an array for each input, into which they copy their rows."""

    __slots__ = ("closed", "copied", "copying", "execute", "filled", "full", "memory", "rows", "tickets")

    def __init__(self, execute: Execute) -> None:
        self.execute = execute
        self.tickets: list[_Ticket] = []
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


class _Queue:
    """The batches of one key that are not closed; only the last one takes requests."""

    __slots__ = ("batches", "key", "rows", "running")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.batches: deque[_Batch] = deque()
        self.rows = 0
        # The rows of its closed batches that are not complete.
        self.running: list[int] = []


class Scheduler:
    """Runs up to `threads` batches at a time. With `aside` requests that wait step aside in their pool.

    With `fills` a batch starts beside others of its queue only when it has as many rows.
    """

    def __init__(self, threads: int, *, aside: bool = False, fills: bool = False) -> None:
        self._free = threads
        self._aside = aside
        self._fills = fills
        self._lock = threading.Lock()
        self._queues: dict[Hashable, _Queue] = {}
        # The queues whose first batch has no leader, in turn.
        self._waiting: deque[_Queue] = deque()
        self._memory = Memory()

    @property
    def waiting(self) -> int:
        """The number of requests in batches that are not closed."""
        with self._lock:
            return sum(len(batch.tickets) for queue in self._queues.values() for batch in queue.batches)

    def run(self, key: Hashable, arrays: Sequence[Array], execute: Execute, parameters: Parameters) -> list[Array]:
        """Runs `execute` on `arrays`, possibly together with other requests of the same `key` and shapes.

        Raises RequestError: what `execute` raises; INVALID_ARGUMENT for arrays that can't be batched, UNAVAILABLE when
        the queue is full, FAILED_PRECONDITION for outputs that don't have one row for each input row.
        """
        rows = _rows(arrays)
        if rows > parameters.max_batch_size:
            text = f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
            raise RequestError(Code.INVALID_ARGUMENT, text)
        metrics.WRAPPED_RUNS.add()
        if not rows:
            # Without rows it would wait until another request joins it.
            return execute(arrays)
        most = parameters.max_execution_batch_size
        if most is not None and rows > most:
            parts = [
                self.run(key, [array[start : start + most] for array in arrays], execute, parameters)
                for start in range(0, rows, most)
            ]
            return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
        key = (key, _shapes(arrays, padded=parameters.pad_variable_length_inputs))
        ticket = _Ticket(arrays, rows)
        queue, batch = self._enter(key, ticket, execute, parameters)
        if not ticket.called:
            if batch.memory is not None:
                self._copy(batch, ticket)
            self._wait(queue, batch, ticket)
        if ticket.called:
            self._lead(queue, batch, ticket, parameters)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outputs is not None
        return ticket.outputs

    def _enter(self, key: Hashable, ticket: _Ticket, execute: Execute, parameters: Parameters) -> tuple[_Queue, _Batch]:
        """Adds `ticket` to a batch, and calls it to lead if it can. Raises RequestError UNAVAILABLE: too many wait."""
        with self._lock:
            queue = self._queues.get(key) or self._queues.setdefault(key, _Queue(key))
            batches = -(-queue.rows // parameters.max_batch_size)
            if batches >= parameters.max_enqueued_batches and queue.batches:
                text = (
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{batches} batches enqueued and max_enqueued_batches is {parameters.max_enqueued_batches}"
                )
                raise RequestError(Code.UNAVAILABLE, text)
            batch = queue.batches[-1] if queue.batches else None
            if batch is not None and batch.rows + ticket.rows > parameters.largest:
                batch.fill()
                batch = None
            if batch is None:
                batch = _Batch(execute)
                queue.batches.append(batch)
                if len(queue.batches) == 1:
                    self._waiting.append(queue)
            ticket.place = batch.rows
            batch.tickets.append(ticket)
            batch.rows += ticket.rows
            queue.rows += ticket.rows
            if batch.rows >= parameters.largest:
                batch.fill()
            if self._free and self._waiting:
                self._call_leaders(ticket)
            if not ticket.called and _copied_early(ticket, parameters):
                if batch.memory is None:
                    batch.memory = self._memory.arrays(ticket.arrays, _capacity(parameters))
                batch.copying += 1
            return queue, batch

    def _call_leaders(self, last: _Ticket | None = None) -> None:
        """Gives the free threads to batches that can start; called with the lock held.

        The request that came `last` leads its batch, since its thread needn't be woken.
        """
        for _ in range(len(self._waiting)):
            if not self._free:
                return
            queue = self._waiting.popleft()
            batch = queue.batches[0]
            if self._fills and queue.running and not batch.full and batch.rows < max(queue.running):
                self._waiting.append(queue)
                continue
            self._free -= 1
            leader = last if last is batch.tickets[-1] else batch.tickets[0]
            leader.called = True
            leader.woken.release()

    def _copy(self, batch: _Batch, ticket: _Ticket) -> None:
        """Copies the rows of `ticket`. numpy does that without Python's lock."""
        assert batch.memory is not None
        _copy_rows(batch.memory, ticket)
        with self._lock:
            batch.copying -= 1
            if not batch.copying and batch.copied is not None:
                batch.copied.set()

    def _wait(self, queue: _Queue, batch: _Batch, ticket: _Ticket) -> None:
        """Waits until `ticket` has its result, or is called to lead. Raises RequestError DEADLINE_EXCEEDED."""
        if self._aside:
            step_aside()
        try:
            left = -1 if ticket.until is None else max(0.0, ticket.until - time.monotonic())
            in_time = ticket.woken.acquire(timeout=min(left, threading.TIMEOUT_MAX))
        finally:
            if self._aside:
                step_back()
        if in_time:
            return
        with self._lock:
            if ticket.called:
                return
            if not batch.closed:
                self._remove(queue, batch, ticket)
        raise too_late()

    def _remove(self, queue: _Queue, batch: _Batch, ticket: _Ticket) -> None:
        """Removes a request from a batch that is not closed; called with the lock held."""
        batch.tickets.remove(ticket)
        queue.rows -= ticket.rows
        if batch.memory is None:
            batch.rows -= ticket.rows
        # Otherwise its rows stay where they are, and their results are ignored.
        if batch.tickets:
            return
        first = queue.batches[0] is batch
        queue.batches.remove(batch)
        if first and not queue.batches:
            self._waiting.remove(queue)
            self._forget(queue)

    def _forget(self, queue: _Queue) -> None:
        """Deletes a queue without batches; called with the lock held."""
        if not queue.batches and not queue.running and self._queues.get(queue.key) is queue:
            del self._queues[queue.key]

    def _lead(self, queue: _Queue, batch: _Batch, leader: _Ticket, parameters: Parameters) -> None:
        """Runs `batch`, and hands the thread on."""
        outputs = None
        closed = time.monotonic()
        try:
            self._close(queue, batch, parameters)
            closed = time.monotonic()
            outputs = _run(batch, self._memory, parameters)
        finally:
            batch.memory = None
            if self._hand_on(queue, batch) and self._fills:
                # The next leader needs Python's lock, which the threads of these requests would compete for.
                time.sleep(HAND_ON_SECONDS)
            for ticket in batch.tickets:
                if outputs is not None:
                    ticket.outputs = _part(outputs, ticket)
                elif ticket.outputs is None and ticket.error is None:
                    ticket.error = RequestError(Code.INTERNAL, "the batch of this request did not complete")
                if ticket is not leader:
                    ticket.woken.release()
                metrics.QUEUING_LATENCY.observe((closed - ticket.since) * 1e6)

    def _close(self, queue: _Queue, batch: _Batch, parameters: Parameters) -> None:
        """Closes `batch` when it is full or its first request has waited for the batch timeout, and rows are copied."""
        if parameters.batch_timeout_micros:
            left = batch.tickets[0].since + parameters.batch_timeout_micros / 1e6 - time.monotonic()
            with self._lock:
                batch.filled = threading.Event()
                if batch.full:
                    left = 0
            if left > 0:
                batch.filled.wait(min(left, threading.TIMEOUT_MAX))
        with self._lock:
            batch.closed = True
            queue.batches.popleft()
            queue.rows -= sum([ticket.rows for ticket in batch.tickets])
            queue.running.append(batch.rows)
            if queue.batches:
                self._waiting.append(queue)
                self._call_leaders()
            if batch.copying:
                batch.copied = threading.Event()
        if batch.copied is not None:
            batch.copied.wait()

    def _hand_on(self, queue: _Queue, batch: _Batch) -> bool:
        """Returns whether another batch got the thread."""
        with self._lock:
            self._free += 1
            free = self._free
            if batch.closed:
                queue.running.remove(batch.rows)
            self._forget(queue)
            self._call_leaders()
            return self._free < free


def _copied_early(ticket: _Ticket, parameters: Parameters) -> bool:
    """Returns whether the rows of `ticket` are copied into the batch's memory when they arrive."""
    sizes = [row_bytes(array) for array in ticket.arrays]
    return (
        max(sizes) >= LARGE_ROW_BYTES
        and sum(sizes) * _capacity(parameters) <= MOST_BATCH_BYTES
        and not parameters.pad_variable_length_inputs
        and not any(array.dtype.hasobject for array in ticket.arrays)
    )


def _capacity(parameters: Parameters) -> int:
    return max(parameters.largest, *parameters.allowed_batch_sizes[-1:], 1)


def _copy_rows(memory: Sequence[Array], ticket: _Ticket) -> None:
    for into, array in zip(memory, ticket.arrays, strict=True):
        into[ticket.place : ticket.place + ticket.rows] = array
    ticket.copied = True


def _run(batch: _Batch, memory: Memory, parameters: Parameters) -> list[Array] | None:
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
        alone = _Batch(batch.execute)
        alone.tickets, alone.rows = [ticket], ticket.rows
        try:
            outputs = _execute(batch.execute, *_merged(alone, memory, parameters), ticket.until)
            ticket.outputs = _part(outputs, ticket)
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


def _part(outputs: Sequence[Array], ticket: _Ticket) -> list[Array]:
    return [output[ticket.place : ticket.place + ticket.rows] for output in outputs]


def _merged(batch: _Batch, memory: Memory, parameters: Parameters) -> tuple[list[Array], int]:
    """Returns the inputs of all requests of a batch, padded to an allowed size, and that size.

    Padding rows are copies of a real row.
    """
    tickets = batch.tickets
    if batch.memory is not None and (len(tickets) > 1 or tickets[0].copied):
        for ticket in tickets:
            if not ticket.copied:
                _copy_rows(batch.memory, ticket)
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


def _rows(arrays: Sequence[Array]) -> int:
    for array in arrays:
        if not array.shape:
            text = "Batching Run() input tensors must have at least one dimension"
            raise RequestError(Code.INVALID_ARGUMENT, text)
        if array.shape[0] != arrays[0].shape[0]:
            text = "Batching Run() input tensors must have equal 0th-dimension size"
            raise RequestError(Code.INVALID_ARGUMENT, text)
    return arrays[0].shape[0] if arrays else 0


def _shapes(arrays: Sequence[Array], *, padded: bool) -> Hashable:
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
