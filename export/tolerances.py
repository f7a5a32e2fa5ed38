"""Tolerances of outputs by dtype, chosen from the differences that were observed during the export."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfserving.foundation.compare import Difference, Tolerance, compare
from tfserving.foundation.tensors import Array, dtype_of

# They allow for the rounding of another processor or build. One machine returns the same bits each time; a row padded
# to another batch was observed to change by 1.4e-6 in a float32 layer 512 wide. Any other dtype must be equal.
TOLERANCES = {
    "float16": Tolerance(1e-3, 1e-2),
    "bfloat16": Tolerance(1e-2, 2e-2),
    "float32": Tolerance(1e-5, 1e-5),
    "float64": Tolerance(1e-12, 1e-10),
}
# If the outputs of the model itself differ by more than this many times the tolerance, it can't be verified.
MOST = 10.0
# The factor between the largest observed difference and the tolerance: another machine may differ more.
ROOM = 4.0


class Judge:
    """Compares outputs with golden ones, and keeps the largest differences."""

    def __init__(self, tolerances: Mapping[str, Tolerance] = TOLERANCES, most: float = MOST) -> None:
        """Use `tolerances`, the minimum by dtype. Differences up to `most` times these are accepted."""
        self._tolerances = tolerances
        self._most = most
        # The largest difference so far by dtype, as a multiple of the minimum tolerance.
        self._spread: dict[str, float] = {}

    def judge(self, output: Array, golden: Array) -> Difference:
        """Return the difference between `output` and `golden`, and whether it is accepted."""
        name = dtype_of(golden).name
        tolerance = self._tolerances.get(name)
        difference = compare(output, golden, tolerance and tolerance.times(self._most))
        if tolerance and difference.verdict == "within tolerance":
            self._spread[name] = max(self._spread.get(name, 0.0), _multiple(output, golden, tolerance))
        return difference

    def chosen(self, dtype: str) -> Tolerance | None:
        """Return the tolerance for `dtype`: the minimum, or four times the largest observed difference."""
        tolerance = self._tolerances.get(dtype)
        return tolerance and tolerance.times(max(1.0, ROOM * self._spread.get(dtype, 0.0)))


def describe(difference: Difference) -> str:
    """Return how an error describes the difference of two arrays."""
    if difference.absolute is None:
        return difference.reason
    return f"largest difference {difference.absolute:.3g}, {difference.reason}"


def _multiple(output: Array, golden: Array, tolerance: Tolerance) -> float:
    """Return the smallest factor of `tolerance` that covers the difference of `output`."""
    wide = output.astype(np.float64), golden.astype(np.float64)
    with np.errstate(invalid="ignore"):
        multiples = np.abs(wide[0] - wide[1]) / tolerance.allowed(wide[1])
    # Equal infinities, and NaNs.
    return float(np.nan_to_num(multiples, nan=0.0).max(initial=0.0))
