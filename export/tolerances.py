"""How far an answer may be from the golden one, by dtype: chosen from how far answers were seen to be apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfserving.foundation.compare import Difference, Tolerance, compare
from tfserving.foundation.tensors import Array, dtype_of

# Room for another processor or another build to round differently. The same machine gives the same bits; a row padded
# to another batch was seen to move by 1.4e-6 in a float32 layer 512 wide. A dtype that is not here must be equal.
TOLERANCES = {
    "float16": Tolerance(1e-3, 1e-2),
    "bfloat16": Tolerance(1e-2, 2e-2),
    "float32": Tolerance(1e-5, 1e-5),
    "float64": Tolerance(1e-12, 1e-10),
}
# A model whose own answers are further apart than this many times these is not one that can be verified.
MOST = 10.0
# Another machine may be apart as much again, and more.
ROOM = 4.0


class Judge:
    """Compares answers with golden ones, and remembers how far apart they were."""

    def __init__(self, tolerances: Mapping[str, Tolerance] = TOLERANCES, most: float = MOST) -> None:
        """`tolerances`: by dtype the least that is allowed, `most` times which is tolerated."""
        self._tolerances = tolerances
        self._most = most
        # By dtype the largest difference so far, as a multiple of what is allowed at least.
        self._spread: dict[str, float] = {}

    def judge(self, answered: Array, golden: Array) -> Difference:
        """How far `answered` is from `golden`, and whether that can be tolerated at all."""
        name = dtype_of(golden).name
        tolerance = self._tolerances.get(name)
        difference = compare(answered, golden, tolerance and _times(tolerance, self._most))
        if tolerance and difference.verdict == "within tolerance":
            self._spread[name] = max(self._spread.get(name, 0.0), _multiple(answered, golden, tolerance))
        return difference

    def chosen(self, dtype: str) -> Tolerance | None:
        """The tolerance for `dtype`: at least the standing one, and four times the largest difference seen."""
        tolerance = self._tolerances.get(dtype)
        return tolerance and _times(tolerance, max(1.0, ROOM * self._spread.get(dtype, 0.0)))


def describe(difference: Difference) -> str:
    """What an error says of two arrays that are too far apart."""
    if difference.absolute is None:
        return difference.reason
    return f"largest difference {difference.absolute:.3g}, {difference.reason}"


def _times(tolerance: Tolerance, factor: float) -> Tolerance:
    # Two digits: a tolerance is no measurement.
    return Tolerance(float(f"{tolerance.absolute * factor:.2g}"), float(f"{tolerance.relative * factor:.2g}"))


def _multiple(answered: Array, golden: Array, tolerance: Tolerance) -> float:
    """The least factor of `tolerance` that `answered` is within."""
    wide = answered.astype(np.float64), golden.astype(np.float64)
    with np.errstate(invalid="ignore"):
        multiples = np.abs(wide[0] - wide[1]) / (tolerance.absolute + tolerance.relative * np.abs(wide[1]))
    # Equal infinities, and NaNs.
    return float(np.nan_to_num(multiples, nan=0.0).max(initial=0.0))
