"""Calling a session: TensorFlow's private callable, or its public one when that is gone.

`Session._make_callable_from_options` skips the per-call checks of `Session.run` and costs a fifth of its CPU. It is
private, so nothing else in this package touches it, and `Session.make_callable` stands in for it, by itself when the
method is missing and on demand with EMBEDDED_PUBLIC_SESSION_CALL=1.

Both answer the same, but the public one refuses an input whose shape contradicts the placeholder's before it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any

import numpy as np

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.deep import Deep
from tfserving.serving.embedded.core.pool import call_took
from tfserving.serving.embedded.errors import Code, RequestError

PUBLIC_ONLY = "EMBEDDED_PUBLIC_SESSION_CALL"

Call = Callable[..., list[Array]]


def make_call(session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
    """A function from one array for each name of `feeds` to a list with one array for each of `fetches`.

    Strings are object arrays of bytes, both ways. The function raises RequestError with the runtime's code and text;
    so does making it, when the graph can't be run that way.
    """
    for name in fetches:
        if name in feeds:
            raise RequestError(Code.INVALID_ARGUMENT, f"{name} is both fed and fetched.")
    private = getattr(session, "_make_callable_from_options", None)
    if private is None or os.environ.get(PUBLIC_ONLY) == "1":
        return guard(_public(session, feeds, fetches))
    return guard(_private(private, feeds, fetches))


def _private(make: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    options = CallableOptions(feed=feeds, fetch=fetches)
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
    """`call`, with scalars as arrays, and RequestError for whatever it raises."""

    def guarded(*arrays: Array) -> list[Array]:
        try:
            started = thread_time()
            values = call(*arrays)
            call_took(thread_time() - started)
            for index, value in enumerate(values):
                if not isinstance(value, (np.ndarray, Deep)):
                    values[index] = _scalar(value)
            return values
        except Exception as error:
            raise translate(error) from None

    return guarded


def _scalar(value: Any) -> Array:
    """A tensor without dimensions, which TensorFlow gives as a numpy scalar or as bytes."""
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def translate(error: Exception) -> RequestError:
    """TensorFlow's exception as this server's: the runtime's own code and text."""
    code = getattr(error, "error_code", None)
    if code is not None and 1 <= code <= Code.UNAUTHENTICATED:
        text = str(getattr(error, "message", error))
        # The public way adds where in Python the node was made; for a SavedModel that is inside the loader.
        return RequestError(Code(code), text.split("\n\nOriginal stack trace", 1)[0])
    if isinstance(error, (ValueError, TypeError, KeyError)):
        return RequestError(Code.INVALID_ARGUMENT, str(error))
    return RequestError(Code.INTERNAL, f"{type(error).__name__}: {error}")
