"""Requests without rows: whatever a model makes of them, the process that serves it must not end."""

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
    """Sends `fresh`, which has loaded a version, requests without rows, and with inputs of which one has no values.

    They are made of the first of the `golden` requests to each signature; an error is as good as an answer. Raises
    LintError when the process ends.
    """
    first: dict[str, GoldenRequest] = {}
    for request in golden:
        first.setdefault(request.signature, request)
    for name, request in first.items():
        for inputs in emptied(request.inputs, signatures[name]):
            try:
                fresh.outlive(GoldenRequest(name, inputs, {}))
            except ProofError as error:
                shapes = ", ".join(f"{key!r} {array.shape}" for key, array in inputs.items())
                raise LintError(
                    f"[empty-request] signature {name!r}: a request with {shapes} ends the process that runs it; check "
                    f"the sizes in the signature (docs/lint.md)\n  {error}"
                ) from None


def emptied(inputs: Mapping[str, Array], signature: ServedSignature) -> Iterator[dict[str, Array]]:
    """The `inputs` without rows, and with each of the dimensions that have any size in `signature` 0 by itself."""
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
