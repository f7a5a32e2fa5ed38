"""Whether two sets of outputs for the same rows agree within the tolerances of a judge."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.export.errors import ServableError
from tfserving.export.tolerances import Judge, describe
from tfserving.foundation.compare import compare
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array

# Rounding explains differences up to this part of the largest value in a row, such as those of products in float16 or
# TF32. Batch normalization with the statistics of the batch changes outputs by more.
ROUNDING = 1e-2


def agree(judge: Judge, expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> bool:
    """Return whether `outputs` contains every `expected` output."""
    return all(
        name in outputs and judge.judge(outputs[name], array).verdict != "different" for name, array in expected.items()
    )


def is_rounding(expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> bool:
    """Return whether float outputs differ from the `expected` ones, and all of them by as little as rounding does.

    Other outputs, such as labels, then differ where two scores are nearly a tie.
    """
    scaled = [compare(outputs[name], array).scaled for name, array in expected.items() if name in outputs]
    return 0.0 < max((one for one in scaled if one is not None), default=0.0) <= ROUNDING


def require_equal(judge: Judge, expected: GoldenRequest, actual: GoldenRequest, what: str, remedy: str) -> None:
    """Raise ServableError, with `what` and `remedy`, for the first output of `expected` that differs in `actual`."""
    where = f"signature {actual.signature!r}"
    for output, array in expected.outputs.items():
        if output not in actual.outputs:
            found = ", ".join(map(repr, sorted(actual.outputs))) or "none"
            raise ServableError(f"{where}: {what}: expected the output {output!r}, got {found}. {remedy}")
        difference = judge.judge(actual.outputs[output], array)
        if difference.verdict == "different":
            raise ServableError(f"{where}, output {output!r}: {what}: {describe(difference)}. {remedy}")


def require_steady(judge: Judge, first: GoldenRequest, second: GoldenRequest) -> None:
    """Raise ServableError for an output that differs when the same request is sent a `second` time."""
    require_equal(
        judge,
        first,
        second,
        "the same request gets another output the second time",
        "Outputs must not depend on random numbers or on state in Python code: take a seed, or the state, as an input.",
    )
