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
from collections.abc import Hashable, Sequence

import numpy as np

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.batch import (
    Batch,
    Execute,
    Queue,
    Ticket,
    capacity,
    copied_early,
    copy_rows,
    part_of,
    rows_of,
    run_batch,
    shapes_of,
)
from tfserving.serving.embedded.core.batch_memory import Memory
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.deadline import too_late
from tfserving.serving.embedded.core.pool import step_aside, step_back
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.observability import metrics

# How long a batch's results wait on a GPU, so that the next one starts first.
HAND_ON_SECONDS = 0.0003


class Scheduler:
    """Runs up to `threads` batches at a time. With `aside` requests that wait step aside in their pool.

    With `fills` a batch starts beside others of its queue only when it has as many rows.
    """

    def __init__(self, threads: int, *, aside: bool = False, fills: bool = False) -> None:
        self._free = threads
        self._aside = aside
        self._fills = fills
        self._lock = threading.Lock()
        self._queues: dict[Hashable, Queue] = {}
        # The queues whose first batch has no leader, in turn.
        self._waiting: deque[Queue] = deque()
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
        rows = rows_of(arrays)
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
        key = (key, shapes_of(arrays, padded=parameters.pad_variable_length_inputs))
        ticket = Ticket(arrays, rows)
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

    def _enter(self, key: Hashable, ticket: Ticket, execute: Execute, parameters: Parameters) -> tuple[Queue, Batch]:
        """Adds `ticket` to a batch, and calls it to lead if it can. Raises RequestError UNAVAILABLE: too many wait."""
        with self._lock:
            queue = self._queues.get(key) or self._queues.setdefault(key, Queue(key))
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
                batch = Batch(execute)
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
            if not ticket.called and copied_early(ticket, parameters):
                if batch.memory is None:
                    batch.memory = self._memory.arrays(ticket.arrays, capacity(parameters))
                batch.copying += 1
            return queue, batch

    def _call_leaders(self, last: Ticket | None = None) -> None:
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

    def _copy(self, batch: Batch, ticket: Ticket) -> None:
        """Copies the rows of `ticket`. numpy does that without Python's lock."""
        assert batch.memory is not None
        copy_rows(batch.memory, ticket)
        with self._lock:
            batch.copying -= 1
            if not batch.copying and batch.copied is not None:
                batch.copied.set()

    def _wait(self, queue: Queue, batch: Batch, ticket: Ticket) -> None:
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

    def _remove(self, queue: Queue, batch: Batch, ticket: Ticket) -> None:
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

    def _forget(self, queue: Queue) -> None:
        """Deletes a queue without batches; called with the lock held."""
        if not queue.batches and not queue.running and self._queues.get(queue.key) is queue:
            del self._queues[queue.key]

    def _lead(self, queue: Queue, batch: Batch, leader: Ticket, parameters: Parameters) -> None:
        """Runs `batch`, and hands the thread on."""
        outputs = None
        closed = time.monotonic()
        try:
            self._close(queue, batch, parameters)
            closed = time.monotonic()
            outputs = run_batch(batch, self._memory, parameters)
        finally:
            batch.memory = None
            if self._hand_on(queue, batch) and self._fills:
                # The next leader needs Python's lock, which the threads of these requests would compete for.
                time.sleep(HAND_ON_SECONDS)
            for ticket in batch.tickets:
                if outputs is not None:
                    ticket.outputs = part_of(outputs, ticket)
                elif ticket.outputs is None and ticket.error is None:
                    ticket.error = RequestError(Code.INTERNAL, "the batch of this request did not complete")
                if ticket is not leader:
                    ticket.woken.release()
                metrics.QUEUING_LATENCY.observe((closed - ticket.since) * 1e6)

    def _close(self, queue: Queue, batch: Batch, parameters: Parameters) -> None:
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

    def _hand_on(self, queue: Queue, batch: Batch) -> bool:
        """Returns whether another batch got the thread."""
        with self._lock:
            self._free += 1
            free = self._free
            if batch.closed:
                queue.running.remove(batch.rows)
            self._forget(queue)
            self._call_leaders()
            return self._free < free
