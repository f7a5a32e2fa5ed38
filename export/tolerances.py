"""Tolerances of outputs by kind of device and dtype, chosen from the differences that were observed during the export.

A table has the minimum for each kind of device. Differences that an export observes, on the devices that its machine
has, widen it.

| float32 outputs | minimum |
| --- | --- |
| `cpu` | 1e-5 + 1e-5 of the value |
| `gpu` | the same, + 1e-5 of the largest value in the row, or 1e-4 for a deep convolutional network |
| `gpu-tf32` | 1e-3 + 1e-5 of the value + 5e-3 of the row's largest; none for a deep convolutional network |
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfserving.export.arithmetic import Arithmetic
from tfserving.foundation.compare import Difference, Tolerance, compare
from tfserving.foundation.devices import DEVICES, Device
from tfserving.foundation.tensors import Array, dtype_of

# They allow for the rounding of another processor or build. One machine returns the same bits each time; a row padded
# to another batch was observed to change by 1.4e-6 in a float32 layer 512 wide. Any other dtype must be equal.
TOLERANCES = {
    "float16": Tolerance(1e-3, 1e-2),
    "bfloat16": Tolerance(1e-2, 2e-2),
    "float32": Tolerance(1e-5, 1e-5),
    "float64": Tolerance(1e-12, 1e-10),
}
# A GPU adds in another order, and a sum near zero is as inexact as its terms. By scale, float32 outputs of an H200
# differed from a processor's by up to 6.4e-7 for the samples and 1.0e-6 for an encoder of 12 layers. The values of the
# other dtypes were not measured: they are two steps of float16 and bfloat16 at the row's largest value, and float64's
# absolute part above.
_GPU_SCALES = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-5, "float64": 1e-12}
# Deep convolutional networks: 1.1e-5 for MobileNetV2 and 3.8e-5 for ResNet50 on the H200.
_DEEP_SCALES = {**_GPU_SCALES, "float32": 1e-4, "float64": 1e-11}
# Products of float32 in TF32: up to 7.0e-4, by scale 3.8e-4, for the samples, and 1.1e-3 by scale for the encoder. Deep
# convolutional networks differed by 1.7e-2 and 4.7e-2, too much for a table.
_TF32 = Tolerance(1e-3, 1e-5, 5e-3)
# If the outputs of the model itself differ by more than this many times the tolerance, it can't be verified.
MOST = 10.0
# The factor between the largest observed difference and the tolerance: another machine may differ more.
ROOM = 4.0


class Judge:
    """Compares outputs with golden ones, and keeps the largest differences."""

    def __init__(self, tolerances: Mapping[str, Tolerance] = TOLERANCES, most: float = MOST) -> None:
        """Use `tolerances`, the minimum by dtype. Differences up to `most` times these are accepted."""
        self.tolerances = tolerances
        self._most = most
        # The largest difference so far by dtype, as a multiple of the minimum tolerance.
        self._spread: dict[str, float] = {}

    def copy(self) -> Judge:
        """Return a judge with the same differences so far."""
        other = Judge(self.tolerances, self._most)
        other._spread = {**self._spread}
        return other

    def judge(self, output: Array, golden: Array) -> Difference:
        """Return the difference between `output` and `golden`, and whether it is accepted."""
        name = dtype_of(golden).name
        tolerance = self.tolerances.get(name)
        difference = compare(output, golden, tolerance and tolerance.times(self._most))
        if tolerance and difference.verdict == "within tolerance":
            self._spread[name] = max(self._spread.get(name, 0.0), _multiple(output, golden, tolerance))
        return difference

    def chosen(self, dtype: str) -> Tolerance | None:
        """Return the tolerance for `dtype`: the minimum, or four times the largest observed difference."""
        tolerance = self.tolerances.get(dtype)
        return tolerance and tolerance.times(max(1.0, ROOM * self._spread.get(dtype, 0.0)))


def minimum(device: Device, arithmetic: Arithmetic) -> dict[str, Tolerance] | None:
    """Return the table's tolerances by dtype of output, for a graph with the given products that `device` runs.

    They allow for the difference between two devices when one is of this kind and the other is as exact or more. An
    output is as inexact as the products behind it, such as a float64 output cast from float32. None when the table has
    no entry, as differences depend too much on the model.
    """
    if device == "cpu":
        return dict(TOLERANCES)
    if device == "gpu-tf32" and arithmetic.is_deep and "float32" in arithmetic.products:
        return None
    scales = _DEEP_SCALES if arithmetic.is_deep else _GPU_SCALES
    table = {name: Tolerance(one.absolute, one.relative, scales[name]) for name, one in TOLERANCES.items()}
    behind = [table[name] for name in sorted(arithmetic.products & table.keys())]
    if device == "gpu-tf32":
        behind.append(_TF32)
    return {name: widest(one, *behind) for name, one in table.items()}


def to_measure(device: Device, arithmetic: Arithmetic) -> dict[str, Tolerance]:
    """Return the tolerances that a measurement on `device` starts from, if a GPU computed the golden outputs.

    Without an entry in the table, they are those of other models, which the observed differences then widen.
    """
    if device == "cpu":
        # The difference between a processor and a GPU is the same in both directions.
        device = "gpu"
    found = minimum(device, arithmetic) or minimum(device, Arithmetic(arithmetic.products))
    assert found is not None
    return found


def widest(*tolerances: Tolerance) -> Tolerance:
    """Return a tolerance that allows all that each of the `tolerances` allows."""
    parts = zip(*((one.absolute, one.relative, one.scale) for one in tolerances), strict=True)
    return Tolerance(*map(max, parts))


def from_table(chosen: Mapping[str, Tolerance], arithmetic: Arithmetic) -> dict[Device, dict[str, Tolerance]]:
    """Return the tolerances by kind of device of a version whose golden outputs a processor computed.

    `chosen` are those of processors by dtype of output, which all kinds of device have at least.
    """
    tables = {device: minimum(device, arithmetic) for device in DEVICES}
    return {
        device: {dtype: widest(one, table[dtype]) for dtype, one in chosen.items()}
        for device, table in tables.items()
        if table is not None
    }


def tolerance_text(one: Tolerance) -> str:
    """Return a tolerance as it is printed."""
    scale = f" + {one.scale:g} of the row's largest" if one.scale else ""
    return f"{one.absolute:g} + {one.relative:g} of the value{scale}"


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
