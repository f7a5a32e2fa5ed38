"""Compares the outputs of a version in a fresh process with the golden ones, as a record on disk has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tfserving.export.edge_requests import EdgeRequest
from tfserving.export.errors import ProofError
from tfserving.export.records import prediction_log
from tfserving.export.rows import described
from tfserving.export.tolerances import Judge, describe
from tfserving.foundation.golden import GoldenRequest, request_of
from tfserving.foundation.tensors import Array

_HOW = {"function": "as a function", "session": "in a session, as on servers"}


def disputed_rows(request: EdgeRequest, outputs: Mapping[str, Mapping[str, Array]], comparison: Comparison) -> set[int]:
    """Return the rows of `request` that are disputed. Raises ProofError when the outputs of others differ."""
    disputed: set[int] = set()
    for way, found in outputs.items():
        if rows := request.disputed(found, comparison.judge, rewritten=way == "session"):
            rest, actual = (replace(request, outputs=one).without(rows) for one in (request.outputs, found))
            if rest and actual:
                comparison.compare(as_recorded(rest), as_recorded(actual), way)
            disputed |= rows
    return disputed


class Comparison:
    """Compares outputs, and keeps the largest difference."""

    def __init__(self, judge: Judge, reasons: Mapping[str, str]) -> None:
        self.judge = judge
        self._reasons = reasons
        self.identical = True
        self.largest = 0.0

    def compare(self, golden: GoldenRequest, actual: GoldenRequest, way: str) -> None:
        """Raise ProofError when an output of `actual` differs from that of `golden`."""
        for output, expected in golden.outputs.items():
            difference = self.judge.judge(actual.outputs[output], expected)
            if difference.verdict == "different":
                reason = f"\n  ({self._reasons[way]})" if way in self._reasons else ""
                raise ProofError(
                    f"signature {golden.signature!r}, output {output!r}: for {described(golden.inputs)}, the version "
                    f"run {_HOW[way]} and the live model return different values: {describe(difference)}{reason}"
                )
            self.identical = self.identical and difference.verdict == "equal"
            self.largest = max(self.largest, difference.absolute or 0.0)


def as_recorded(request: GoldenRequest, outputs: Mapping[str, Array] | None = None) -> GoldenRequest:
    """Return `request`, with other `outputs` if given, as a record has it: classes as text, regression values flat."""
    if outputs is not None:
        request = GoldenRequest(request.signature, request.inputs, outputs, request.method)
    return request if request.method == "predict" else request_of(prediction_log(request, ""))
