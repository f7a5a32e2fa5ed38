"""Calls of a session: through TensorFlow's private callable, or through the public one when that is missing.

`Session._make_callable_from_options` skips the per-call checks of `Session.run` and costs a fifth of its CPU. It is
private, so no other module of this package uses it. `Session.make_callable` replaces it when the method is missing, or
when the environment has EMBEDDED_PUBLIC_SESSION_CALL=1.

Both return the same, but the public one refuses an input whose shape contradicts the placeholder's before it runs.

For a graph with loops use `make_ending_call`: the call runs in a slot, and is cancelled at its deadline.
`Session._call_tf_sessionrun` is private, too, and `Session.run` replaces it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, thread_time
from typing import Any

import numpy as np

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.deep import Deep
from tfserving.serving.embedded.core.pool import call_took
from tfserving.serving.embedded.core.slots import Slots
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.gpu import memory

PUBLIC_ONLY = "EMBEDDED_PUBLIC_SESSION_CALL"

# TensorFlow's number for a run in the caller's thread.
OWN_THREAD = -1


class _Computed(threading.local):
    seconds = 0.0


# The CPU time of this thread's last run, in seconds.
computed = _Computed()

Call = Callable[..., list[Array]]
Run = Callable[[Any, Sequence[Array]], list[Array]]


def make_call(session: Any, feeds: Sequence[str], fetches: Sequence[str], pool: int = OWN_THREAD) -> Call:
    """Returns a function from one array for each name in `feeds` to a list with one array for each in `fetches`.

    Strings are object arrays of bytes, in inputs and outputs. The function raises RequestError with the runtime's code
    and text, and so does `make_call` when the graph can't run that way. It runs in the session's `pool`, or in the
    caller's thread.
    """
    check_fetches(feeds, fetches)
    private = getattr(session, "_make_callable_from_options", None)
    if private is None or os.environ.get(PUBLIC_ONLY) == "1":
        return guard(_public(session, feeds, fetches))
    return guard(_private(private, feeds, fetches, pool))


def check_fetches(feeds: Sequence[str], fetches: Sequence[str]) -> None:
    """Raises RequestError for a tensor that is both fed and fetched."""
    for name in fetches:
        if name in feeds:
            raise RequestError(Code.INVALID_ARGUMENT, f"{name} is both fed and fetched.")


def make_ending_call(session: Any, feeds: Sequence[str], fetches: Sequence[str], ending: Ending) -> Call:
    """As `make_call`, for a graph with loops, which `ending` ends. The function raises RequestError as `Slots` does."""
    check_fetches(feeds, fetches)
    return ending.call(_low_run(session, feeds, fetches) or _public_run(session, feeds, fetches))


@dataclass(frozen=True)
class Ending:
    """Runs a model's graph with loops in one of `slots`, until the deadline, or for `longest` seconds without one.

    `pools` is whether the session has pools for the slots.
    """

    model: str
    slots: Slots
    longest: float | None
    pools: bool

    def call(self, run: Run) -> Call:
        """Makes a function of the arrays from `run`, a function of RunOptions and the arrays."""

        def call(*arrays: Array) -> list[Array]:
            with self.slots.taken(self.model, self.longest) as (slot, seconds):
                started = monotonic()
                try:
                    return run(self._options(slot, seconds), arrays)
                finally:
                    # Another thread computes, so this is wall time.
                    call_took(monotonic() - started)

        return guard(call)

    def _options(self, slot: int, seconds: float | None) -> Any:
        from tensorflow.core.protobuf.config_pb2 import RunOptions

        # 0 milliseconds would be no limit.
        milliseconds = 0 if seconds is None else 1 + int(seconds * 1000)
        return RunOptions(inter_op_thread_pool=slot + 1 if self.pools else 0, timeout_in_ms=milliseconds)


def add_pools(config: Any, slots: int) -> bool:
    """Adds pools to a ConfigProto: pool 0 for runs without a slot, and one for each slot, which all sessions share.

    Returns False for a configuration that has its own pools; it stays as it is.
    """
    if config.session_inter_op_thread_pool:
        return False
    together = max(1, config.inter_op_parallelism_threads)
    ordinary = together if config.inter_op_parallelism_threads > 0 else os.cpu_count() or 1
    config.session_inter_op_thread_pool.add(num_threads=ordinary, global_name=f"ordinary-{ordinary}")
    for slot in range(slots):
        config.session_inter_op_thread_pool.add(num_threads=together, global_name=f"slot-{slot}-{together}")
    return True


def _low_run(session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Run | None:
    low = getattr(session, "_call_tf_sessionrun", None)
    extend = getattr(session, "_extend_graph", None)
    if low is None or extend is None or os.environ.get(PUBLIC_ONLY) == "1":
        return None
    from tensorflow.python.client import pywrap_tf_session

    try:
        fed, fetched = (
            [session.graph.as_graph_element(name)._as_tf_output() for name in names] for names in (feeds, fetches)
        )
        extend()
    except Exception as error:
        raise translate(error) from None

    def run(options: Any, arrays: Sequence[Array]) -> list[Array]:
        given = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            return low(given, dict(zip(fed, arrays, strict=True)), fetched, [], None)  # type: ignore[no-any-return]
        finally:
            pywrap_tf_session.TF_DeleteBuffer(given)

    return run


def _public_run(session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Run:
    try:
        fed, fetched = ([session.graph.as_graph_element(name) for name in names] for names in (feeds, fetches))
    except Exception as error:
        raise translate(error) from None

    def run(options: Any, arrays: Sequence[Array]) -> list[Array]:
        return session.run(fetched, dict(zip(fed, arrays, strict=True)), options=options)  # type: ignore[no-any-return]

    return run


def _private(make: Any, feeds: Sequence[str], fetches: Sequence[str], pool: int) -> Call:
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    options = CallableOptions(feed=feeds, fetch=fetches)
    # In the caller's own thread, unless operations run at the same time.
    options.run_options.inter_op_thread_pool = pool
    try:
        return make(options)  # type: ignore[no-any-return]
    except Exception as error:
        raise translate(error) from None


def _public(session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
    graph = session.graph
    try:
        fed = [graph.as_graph_element(name) for name in feeds]
        fetched = [graph.as_graph_element(name) for name in fetches]
        return session.make_callable(fetched, feed_list=fed)  # type: ignore[no-any-return]
    except Exception as error:
        raise translate(error) from None


def guard(call: Call) -> Call:
    """Wraps `call`: scalars become arrays, and every exception becomes a RequestError."""

    def guarded(*arrays: Array) -> list[Array]:
        try:
            started = thread_time()
            try:
                values = call(*arrays)
            finally:
                computed.seconds = seconds = thread_time() - started
                call_took(seconds)
            for index, value in enumerate(values):
                if not isinstance(value, (np.ndarray, Deep)):
                    values[index] = _scalar(value)
            return values
        except Exception as error:
            raise translate(error) from None

    return guarded


def _scalar(value: Any) -> Array:
    """Returns an array for a tensor without dimensions, which TensorFlow returns as a numpy scalar or as bytes."""
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def translate(error: Exception) -> RequestError:
    """Returns a RequestError with the code and text of TensorFlow's exception. A RequestError stays as it is."""
    if isinstance(error, RequestError):
        return error
    code = getattr(error, "error_code", None)
    if code is not None and 1 <= code <= Code.UNAUTHENTICATED:
        text = str(getattr(error, "message", error))
        # The public call adds the place in Python that created the node. For a SavedModel that is inside the loader.
        text = text.split("\n\nOriginal stack trace", 1)[0]
        return RequestError(Code(code), text, memory.gpu_memory.hint(text))
    if isinstance(error, (ValueError, TypeError, KeyError)):
        return RequestError(Code.INVALID_ARGUMENT, str(error))
    return RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")
