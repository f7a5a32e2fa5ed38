"""Whether two answers to the same rows agree, within what a judge tolerates."""

from __future__ import annotations

from collections.abc import Mapping

from tfserving.export.errors import ServableError
from tfserving.export.tolerances import Judge, describe
from tfserving.foundation.golden import GoldenRequest
from tfserving.foundation.tensors import Array


def agree(judge: Judge, expected: Mapping[str, Array], answered: Mapping[str, Array]) -> bool:
    """Whether every output that is `expected` was `answered` so."""
    return all(
        name in answered and judge.judge(answered[name], array).verdict != "different"
        for name, array in expected.items()
    )


def require_equal(judge: Judge, expected: GoldenRequest, answered: GoldenRequest, what: str, why: str) -> None:
    """Raises ServableError, with `what` and `why`, for the first output of `expected` that was answered otherwise."""
    where = f"signature {answered.signature!r}"
    for output, array in expected.outputs.items():
        if output not in answered.outputs:
            there = ", ".join(map(repr, sorted(answered.outputs))) or "none"
            raise ServableError(f"{where}: {what}: it has the output {output!r}, answered are {there}; {why}")
        difference = judge.judge(answered.outputs[output], array)
        if difference.verdict == "different":
            raise ServableError(f"{where}, output {output!r}: {what}: {describe(difference)}; {why}")


def require_steady(judge: Judge, first: GoldenRequest, second: GoldenRequest) -> None:
    """Raises ServableError for an output that is answered differently the `second` time."""
    require_equal(
        judge,
        first,
        second,
        "the same request is answered differently the second time",
        "it can't depend on random numbers or on what Python code remembers: take a seed, or the state, as an input",
    )
