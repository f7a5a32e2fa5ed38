"""Whether two sets of outputs for the same rows agree within the tolerances of a judge."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.export.errors import ServableError
from tfserving.export.tolerances import Judge, describe
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


def agree(judge: Judge, expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> bool:
    """Return whether `outputs` contains every `expected` output."""
    return all(
        name in outputs and judge.judge(outputs[name], array).verdict != "different" for name, array in expected.items()
    )


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
