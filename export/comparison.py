"""Whether two answers to the same request are equal, and how far apart they are when not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clients.tensors import Array, dtype_of


@dataclass(frozen=True)
class Tolerance:
    """A value may differ from the expected one by `absolute + relative * |expected|`."""

    absolute: float
    relative: float


# Room for another processor or another build to round differently. The same machine gives the same bits; a row padded
# to another batch was seen to move by 1.4e-6 in a 512 wide float32 layer. Types that are not here must be equal.
TOLERANCES = {
    "float16": Tolerance(1e-3, 1e-2),
    "bfloat16": Tolerance(1e-2, 2e-2),
    "float32": Tolerance(1e-5, 1e-5),
    "float64": Tolerance(1e-12, 1e-10),
}


@dataclass(frozen=True)
class Comparison:
    """How an answer differs from the expected one.

    `largest` is the largest absolute difference (infinite where one has NaN or an infinity and the other has not; the
    number of elements that differ when they are no floats) and `row` its row; `problem` says what is
    wrong, and is empty when the answer is within the tolerance of its dtype.
    """

    identical: bool
    largest: float = 0.0
    row: int | None = None
    problem: str = ""


def compare(expected: Array, answer: Array) -> Comparison:
    """Compares two arrays: dtype and shape must be the same, floats within `TOLERANCES`, NaN equals NaN."""
    dtype = dtype_of(expected).name
    if (dtype, expected.shape) != (dtype_of(answer).name, answer.shape):
        return Comparison(
            identical=False,
            largest=np.inf,
            problem=f"{dtype_of(answer).name} {answer.shape} instead of {dtype} {expected.shape}",
        )
    if dtype not in TOLERANCES:
        differs = np.asarray(expected != answer)
        if not differs.any():
            return Comparison(identical=True)
        row = _row(differs)
        return Comparison(
            identical=False,
            largest=float(differs.sum()),
            row=row,
            problem=f"{int(differs.sum())} of {differs.size} elements differ, the first in row {row}",
        )
    return _compare_floats(expected.astype(np.float64), answer.astype(np.float64), TOLERANCES[dtype])


def _compare_floats(expected: Array, answer: Array, tolerance: Tolerance) -> Comparison:
    same = (expected == answer) | (np.isnan(expected) & np.isnan(answer))
    if same.all():
        return Comparison(identical=True)
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(answer - expected))
        difference = np.where(np.isnan(difference), np.inf, difference)
        allowed = tolerance.absolute + tolerance.relative * np.abs(np.where(np.isfinite(expected), expected, 0.0))
    worst = np.unravel_index(int(np.argmax(difference)), difference.shape)
    problem = ""
    if (difference > allowed).any():
        worst = np.unravel_index(int(np.argmax(difference - allowed)), difference.shape)
        problem = (
            f"differs by up to {difference.max():.3g} (tolerance {tolerance.absolute:g} + {tolerance.relative:g} of the "
            f"value): {answer[worst]:.9g} instead of {expected[worst]:.9g} in row {worst[0] if worst else 0}"
        )
    return Comparison(
        identical=False, largest=float(difference.max()), row=int(worst[0]) if worst else None, problem=problem
    )


def _row(differs: Array) -> int:
    return int(np.argwhere(np.atleast_1d(differs))[0][0])
