"""How far an answer may be from the golden one, by dtype."""

from __future__ import annotations

from clients.compare import Difference, Tolerance, compare
from clients.tensors import Array, dtype_of

# Room for another processor or another build to round differently. The same machine gives the same bits; a row padded
# to another batch was seen to move by 1.4e-6 in a float32 layer 512 wide. A dtype that is not here must be equal.
TOLERANCES = {
    "float16": Tolerance(1e-3, 1e-2),
    "bfloat16": Tolerance(1e-2, 2e-2),
    "float32": Tolerance(1e-5, 1e-5),
    "float64": Tolerance(1e-12, 1e-10),
}


def judge(answered: Array, golden: Array) -> Difference:
    """How far `answered` is from `golden`, and whether that is within the tolerance of its dtype."""
    return compare(answered, golden, TOLERANCES.get(dtype_of(golden).name))


def describe(difference: Difference) -> str:
    """What an error says of two arrays that are too far apart."""
    if difference.absolute is None:
        return difference.reason
    return f"largest difference {difference.absolute:.3g}, {difference.reason}"
