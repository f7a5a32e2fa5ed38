"""Batching: requests that wait at the same time run as one.

    request ──► its queue ──► a thread is free: the request leads. It takes the requests that wait with it, runs them,
                    │         hands the thread to the next queue that has requests, and gives each request its rows
                    └───────► none is free: it waits until it has its result, or becomes the leader

A request that is alone leads at once, in its own thread, without extra cost. A queue holds requests of one version, one
signature and one set of shapes, so they can be concatenated. When a batch fails, each of its requests runs once more
alone, so no client gets the error of another. Refusals have TensorFlow Serving's texts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from tfserving.foundation.tensors import STRING, Array, dtype_of
from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded.core.deadline import deadline, too_late
from tfserving.serving.embedded.core.pool import step_aside, step_back
from tfserving.serving.embedded.errors import Code, RequestError, StartError
from tfserving.serving.embedded.observability import metrics

OWN_PARAMETERS = "batching_params.pbtxt"
Execute = Callable[[Sequence[Array]], list[Array]]


@dataclass(frozen=True)
class Parameters:
    """How requests are batched, with the names of BatchingParameters.

    https://github.com/tensorflow/serving/blob/r2.20/tensorflow_serving/batching/README.md
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    # The rows of one run, when larger requests are split. None: they are not.
    max_execution_batch_size: int | None = None


@dataclass(eq=False)
class _Ticket:
    """A waiting request. `event` is set when it has its result, or when it becomes the leader."""

    arrays: Sequence[Array]
    rows: int
    execute: Execute
    # Its deadline, in seconds of time.monotonic.
    until: float | None = field(default_factory=lambda: deadline.until)
    since: float = field(default_factory=time.monotonic)
    event: threading.Event = field(default_factory=threading.Event)
    outputs: list[Array] | None = None
    error: RequestError | None = None


class Scheduler:
    """Runs up to `threads` batches at a time. With `aside` requests that wait step aside in their pool."""

    def __init__(self, threads: int, *, aside: bool = False) -> None:
        self._free = threads
        self._aside = aside
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[_Ticket]] = {}
        # The queues without a leader, in turn.
        self._waiting: deque[Hashable] = deque()

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
        ticket = _Ticket(arrays, rows, execute)
        if not self._enter(key, ticket, parameters):
            self._wait(key, ticket)
        if ticket.outputs is None and ticket.error is None:
            self._lead(key, ticket, parameters)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outputs is not None
        return ticket.outputs

    def _enter(self, key: Hashable, ticket: _Ticket, parameters: Parameters) -> bool:
        """Adds `ticket` to its queue; returns whether it leads. Raises RequestError UNAVAILABLE when that is full."""
        with self._changed:
            queue = self._queues.setdefault(key, deque())
            batches = -(-sum(other.rows for other in queue) // parameters.max_batch_size)
            if batches >= parameters.max_enqueued_batches and queue:
                text = (
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{batches} batches enqueued and max_enqueued_batches is {parameters.max_enqueued_batches}"
                )
                raise RequestError(Code.UNAVAILABLE, text)
            queue.append(ticket)
            self._changed.notify_all()
            if self._free and len(queue) == 1:
                self._free -= 1
                return True
            if len(queue) == 1:
                self._waiting.append(key)
            return False

    def _wait(self, key: Hashable, ticket: _Ticket) -> None:
        """Waits until `ticket` has its result, or becomes the leader. Raises RequestError DEADLINE_EXCEEDED."""
        if self._aside:
            step_aside()
        try:
            in_time = ticket.event.wait(None if ticket.until is None else max(0.0, ticket.until - time.monotonic()))
        finally:
            if self._aside:
                step_back()
        if in_time:
            return
        with self._changed:
            if ticket.event.is_set():
                return
            queue = self._queues.get(key)
            if queue is not None and ticket in queue:
                queue.remove(ticket)
                if not queue:
                    del self._queues[key]
                    if key in self._waiting:
                        self._waiting.remove(key)
        raise too_late()

    def _lead(self, key: Hashable, leader: _Ticket, parameters: Parameters) -> None:
        """Runs the next batch of the queue `key`, `leader` first, and hands the thread on."""
        batch = [leader]
        try:
            batch = self._take(key, leader, parameters)
            _run(batch, parameters)
        finally:
            self._hand_on()
            for ticket in batch:
                if ticket.outputs is None and ticket.error is None:
                    ticket.error = RequestError(Code.INTERNAL, "the batch of this request did not complete")
                ticket.event.set()

    def _take(self, key: Hashable, leader: _Ticket, parameters: Parameters) -> list[_Ticket]:
        """Returns the tickets of the next batch, when it is full or the leader has waited for the batch timeout."""
        most = min(parameters.max_batch_size, parameters.max_execution_batch_size or parameters.max_batch_size)
        until = leader.since + parameters.batch_timeout_micros / 1e6
        with self._changed:
            queue = self._queues[key]
            while sum(ticket.rows for ticket in queue) < most and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            batch: list[_Ticket] = []
            rows = 0
            while queue and rows + queue[0].rows <= most:
                rows += queue[0].rows
                batch.append(queue.popleft())
            if queue:
                # The first ticket that is left leads, at once or when it is this queue's turn.
                if self._free:
                    self._free -= 1
                    queue[0].event.set()
                else:
                    self._waiting.append(key)
            else:
                del self._queues[key]
        for ticket in batch:
            metrics.QUEUING_LATENCY.observe((time.monotonic() - ticket.since) * 1e6)
        return batch

    def _hand_on(self) -> None:
        with self._changed:
            if self._waiting:
                self._queues[self._waiting.popleft()][0].event.set()
            else:
                self._free += 1


def _run(batch: Sequence[_Ticket], parameters: Parameters) -> None:
    """Runs the tickets as one batch, and each alone when that fails."""
    rows = sum(ticket.rows for ticket in batch)
    # The batch runs until the latest deadline of its requests.
    ends = [ticket.until for ticket in batch]
    own, deadline.until = deadline.until, None if None in ends else max(end for end in ends if end is not None)
    size = next((allowed for allowed in parameters.allowed_batch_sizes if allowed >= rows), rows)
    try:
        outputs = batch[0].execute(_merge(batch, size - rows))
        for output in outputs:
            _check_output(output, size)
    except RequestError as error:
        if len(batch) == 1:
            batch[0].error = error
        else:
            for ticket in batch:
                _run([ticket], parameters)
        return
    finally:
        deadline.until = own
    start = 0
    for ticket in batch:
        ticket.outputs = [output[start : start + ticket.rows] for output in outputs]
        start += ticket.rows


def _merge(batch: Sequence[_Ticket], padding: int) -> list[Array]:
    if len(batch) == 1 and not padding:
        return list(batch[0].arrays)
    merged = []
    for arrays in zip(*(ticket.arrays for ticket in batch), strict=True):
        parts = _padded(arrays)
        # Padding rows are copies of a real row.
        merged.append(np.concatenate([*parts, *[parts[0][:1]] * padding]))
    return merged


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


def read_parameters(path: Path, flag: str = "--batching_parameters_file") -> tuple[Parameters, int | None]:
    """Returns the parameters in a text BatchingParameters, and the number of batch threads, if the file has one.

    Raises StartError when the file can't be read or is wrong.
    """
    message = read_message("BatchingParameters", path, flag)

    def number(name: str, default: int, least: int) -> int:
        value = getattr(message, name).value if message.HasField(name) else default
        if value < least:
            raise StartError(f"{flag}={path}: {name} is {value}; it must be at least {least}")
        return int(value)

    most = number("max_batch_size", Parameters.max_batch_size, 1)
    execution = number("max_execution_batch_size", most, 1)
    allowed = tuple(message.allowed_batch_sizes)
    splits = message.enable_large_batch_splitting.value
    largest = execution if splits else most
    if any(one >= other for one, other in pairwise(allowed)) or (allowed and allowed[0] < 1):
        raise StartError(f"{flag}={path}: allowed_batch_sizes {list(allowed)} must increase, starting at 1 or more")
    if allowed and allowed[-1] != largest:
        what = "max_execution_batch_size" if splits else "max_batch_size"
        raise StartError(f"{flag}={path}: the last of allowed_batch_sizes {list(allowed)} must be {what}, {largest}")
    if execution > most:
        raise StartError(f"{flag}={path}: max_execution_batch_size {execution} is larger than max_batch_size {most}")
    parameters = Parameters(
        max_batch_size=most,
        batch_timeout_micros=number("batch_timeout_micros", 0, 0),
        max_enqueued_batches=number("max_enqueued_batches", Parameters.max_enqueued_batches, 1),
        allowed_batch_sizes=allowed,
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        max_execution_batch_size=execution if splits else None,
    )
    threads = number("num_batch_threads", 0, 0) if message.HasField("num_batch_threads") else None
    return parameters, threads or None


def own_parameters(folder: Path) -> Parameters | None:
    """Returns the parameters in the version's own file in `folder`. Raises StartError when it can't be read.

    Returns None without a file. With the flag for own parameters, TensorFlow Serving batches no other versions
    (https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/servables/tensorflow/bundle_factory_util.cc).
    """
    path = folder / OWN_PARAMETERS
    return read_parameters(path, OWN_PARAMETERS)[0] if path.is_file() else None
