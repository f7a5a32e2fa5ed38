"""How far two arrays are apart: in numbers, and in the steps between neighbouring floats (ULPs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tfserving.foundation.tensors import STRING, Array, dtype_of

# A near tie: a label that differs because the scores of two classes are as good as equal.
Verdict = Literal["equal", "within tolerance", "near tie", "different", "failed"]
Floats = npt.NDArray[np.floating[Any]]

# For each float: the integers of its size, and the bits that are not its sign.
_BITS: dict[np.dtype[Any], tuple[type[np.unsignedinteger[Any]], int]] = {
    np.dtype(np.float16): (np.uint16, 0x7FFF),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0x7FFF),
    np.dtype(np.float32): (np.uint32, 0x7FFFFFFF),
    np.dtype(np.float64): (np.uint64, 0x7FFFFFFFFFFFFFFF),
}
# The distance of a NaN to a number.
_APART = np.uint64(np.iinfo(np.uint64).max)
_PARTS = {np.dtype(np.complex64): np.float32, np.dtype(np.complex128): np.float64}


@dataclass(frozen=True)
class Tolerance:
    """How far a value may be from `wanted`: `absolute + relative * abs(wanted) + scale * largest`.

    `largest` is the largest finite magnitude in the value's row, the part of `wanted` with the same first index. A sum
    of large terms that cancel each other is near zero, and as inexact as its terms: only `scale` allows for that.
    """

    absolute: float
    relative: float
    scale: float = 0.0

    def times(self, factor: float) -> Tolerance:
        """Return this tolerance, `factor` times as wide, with two digits."""
        return Tolerance(*(float(f"{part * factor:.2g}") for part in (self.absolute, self.relative, self.scale)))

    def allowed(self, wanted: Array) -> npt.NDArray[np.float64]:
        """Return the largest accepted difference for each value of `wanted`."""
        magnitudes = np.abs(wanted.astype(np.float64))
        with np.errstate(invalid="ignore", over="ignore"):
            allowed: npt.NDArray[np.float64] = self.absolute + self.relative * magnitudes
            return allowed + self.scale * row_scales(wanted) if self.scale else allowed


@dataclass(frozen=True)
class Difference:
    """The largest differences between two arrays, and the verdict.

    `scaled` is the largest difference as a part of the largest magnitude in its row (see `Tolerance`). All numbers are
    None where they are undefined: strings, booleans, arrays of other shapes, `ulp` for integers and next to a NaN,
    `scaled` for integers. `reason` names the place where two arrays differ most.
    """

    verdict: Verdict
    absolute: float | None = None
    relative: float | None = None
    ulp: int | None = None
    reason: str = ""
    scaled: float | None = None


def compare(served: Array, wanted: Array, tolerance: Tolerance | None = None) -> Difference:
    """Compare `served` with `wanted`.

    Floats are `equal` when every value is: NaN is NaN's equal whatever its bits, +0 is -0's, an infinity only its own.
    Otherwise they are `within tolerance` if one is given and every value is. Everything else must be equal exactly.
    """
    types = dtype_of(served), dtype_of(wanted)
    if types[0] is not types[1]:
        return Difference("different", reason=f"got dtype {types[0].name}, expected {types[1].name}")
    if served.shape != wanted.shape:
        return Difference("different", reason=f"got shape {served.shape}, expected {wanted.shape}")
    if served.dtype in _PARTS:
        part = _PARTS[served.dtype]
        served, wanted = (np.ascontiguousarray(array)[..., None].view(part) for array in (served, wanted))
    if types[0] is STRING or served.dtype.kind == "b":
        return _exact(served, wanted)
    if served.dtype.kind in "iu":
        return _integers(served, wanted)
    return _floats(served, wanted, tolerance)


def is_float(array: Array) -> bool:
    """Return whether `array` holds floats, of which some may differ within a tolerance."""
    return array.dtype.newbyteorder("=") in _BITS


def row_scales(array: Array) -> npt.NDArray[np.float64]:
    """Return for each value of `array` the largest finite magnitude in its row, in a shape that broadcasts to it."""
    magnitudes = np.abs(array.astype(np.float64))
    magnitudes = np.where(np.isfinite(magnitudes), magnitudes, 0.0)
    if magnitudes.ndim < 2:  # noqa: PLR2004 - rows of one value
        return magnitudes
    return np.asarray(magnitudes.max(axis=tuple(range(1, magnitudes.ndim)), keepdims=True, initial=0.0))


def ulps(first: Array, second: Array) -> npt.NDArray[np.uint64]:
    """How many floats lie between each value of `first` and of `second`, both of one float type.

    0 for two NaNs and for +0 and -0; the largest integer for a NaN and anything else.
    """
    keys = _keys(first), _keys(second)
    # Two keys can be further apart than an int64 reaches; their difference modulo 2**64 is right.
    steps = np.asarray(np.maximum(*keys)).view(np.uint64) - np.asarray(np.minimum(*keys)).view(np.uint64)
    nans = np.isnan(first), np.isnan(second)
    return np.where(nans[0] & nans[1], 0, np.where(nans[0] != nans[1], _APART, steps))


def _keys(array: Array) -> npt.NDArray[np.int64]:
    """Integers in the order of the floats, neighbours one apart: a negative float is the negative of its bits."""
    unsigned, magnitude = _BITS[array.dtype.newbyteorder("=")]
    bits = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape).view(unsigned)
    keys = (bits & unsigned(magnitude)).astype(np.int64)
    return np.asarray(np.where(bits > unsigned(magnitude), -keys, keys), np.int64)


def _exact(served: Array, wanted: Array) -> Difference:
    # For objects, too, a loop in C.
    unequal = np.asarray(served != wanted, np.bool_)
    if not unequal.any():
        return Difference("equal")
    return Difference("different", reason=_at(served, wanted, int(unequal.argmax())))


def _integers(served: Array, wanted: Array) -> Difference:
    # Modulo 2**64, as in `ulps`.
    larger, smaller = np.maximum(served, wanted).astype(np.uint64), np.minimum(served, wanted).astype(np.uint64)
    apart = larger - smaller
    largest = int(apart.max(initial=0))
    if not largest:
        return Difference("equal", 0.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = float(np.max(apart / np.abs(wanted.astype(np.float64)), initial=0.0, where=apart > 0))
    return Difference("different", float(largest), relative, None, _at(served, wanted, int(apart.argmax())))


def _floats(served: Array, wanted: Array, tolerance: Tolerance | None) -> Difference:
    steps = ulps(served, wanted)
    if not steps.any():
        return Difference("equal", 0.0, 0.0, 0, scaled=0.0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        wide = served.astype(np.float64), wanted.astype(np.float64)
        apart = np.where(steps == 0, 0.0, np.abs(wide[0] - wide[1]))
        # A NaN or an infinity on one side only.
        apart[np.isnan(apart)] = np.inf
        relative = np.where(apart == 0, 0.0, apart / np.abs(wide[1]))
        relative[np.isnan(relative)] = np.inf
        scaled = np.where(apart == 0, 0.0, apart / row_scales(wide[1]))
        allowed = tolerance.allowed(wide[1]) if tolerance else np.zeros_like(apart)
    within = (apart <= allowed) & np.isfinite(apart) | (steps == 0)
    worst = int(np.argmax(np.where(within, -1.0, apart)) if not within.all() else np.argmax(apart))
    return Difference(
        "within tolerance" if within.all() else "different",
        float(apart.max()),
        float(relative.max()),
        None if steps.max() == _APART else int(steps.max()),
        _at(served, wanted, worst),
        float(scaled.max()),
    )


def _at(served: Array, wanted: Array, flat: int) -> str:
    position = ", ".join(str(int(index)) for index in np.unravel_index(flat, served.shape))
    values = [array.reshape(-1)[flat] for array in (served, wanted)]
    shown = [repr(value) if isinstance(value, (bytes, str)) else str(value) for value in values]
    return f"[{position}]: got {shown[0]}, expected {shown[1]}"
