"""Requests without rows: a model may reject them, but they must not crash the process that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfserving.export.errors import LintError, ProofError
from tfserving.export.manifest import ServedSignature
from tfserving.export.proof import FreshProcess
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


def check_empty(
    fresh: FreshProcess, signatures: Mapping[str, ServedSignature], golden: Iterable[GoldenRequest]
) -> None:
    """Send requests without rows, and requests in which one input has no values, to `fresh`, with a loaded version.

    They are made of the first of the `golden` requests to each signature. An error response is fine. Raises LintError
    when the process crashes.
    """
    first: dict[str, GoldenRequest] = {}
    for request in golden:
        first.setdefault(request.signature, request)
    for name, request in first.items():
        for inputs in emptied(request.inputs, signatures[name]):
            try:
                fresh.survive(GoldenRequest(name, inputs, {}))
            except ProofError as error:
                shapes = ", ".join(f"{key!r} {array.shape}" for key, array in inputs.items())
                raise LintError(
                    f"[empty-request] signature {name!r}: a request with {shapes} crashes the process that runs it. "
                    f"Check the sizes in the signature (docs/lint.md#empty-request).\n  {error}"
                ) from None


def emptied(inputs: Mapping[str, Array], signature: ServedSignature) -> Iterator[dict[str, Array]]:
    """Yield `inputs` without rows, and with each dimension of unknown size in `signature` set to 0 by itself."""
    axes = {
        (name, axis)
        for name, spec in signature.inputs.items()
        if name in inputs
        for axis, size in enumerate((None,) if spec.shape is None else spec.shape)
        if size is None and axis < inputs[name].ndim
    }
    rows = {(name, 0) for name in inputs}
    if rows <= axes:
        yield {name: array[:0] for name, array in inputs.items()}
    for name, axis in sorted(axes - rows if len(rows) == 1 else axes):
        yield {**inputs, name: np.compress([], inputs[name], axis)}
