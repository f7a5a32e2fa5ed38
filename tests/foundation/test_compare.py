from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfserving.foundation.compare import Difference, Tolerance, compare, ulps

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
NAN, INF = float("nan"), float("inf")


def array(values: Any, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.array(values, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbouring_floats_are_one_ulp_apart(dtype: Any) -> None:
    values = array([0.0, 1.0, -1.0, 100.0], dtype)
    bits = values.view(np.uint16 if values.itemsize == 2 else f"u{values.itemsize}")
    neighbours = (bits + 1).view(dtype)
    assert ulps(values, neighbours).tolist() == [1] * 4
    assert ulps(neighbours, values).tolist() == [1] * 4


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_steps_go_through_zero(dtype: Any) -> None:
    smallest = array([1], np.uint16 if np.dtype(dtype).itemsize == 2 else f"u{np.dtype(dtype).itemsize}").view(dtype)
    assert ulps(smallest, -smallest).tolist() == [2]
    assert ulps(array([0.0], dtype), array([-0.0], dtype)).tolist() == [0]


def test_the_farthest_doubles_are_farther_apart_than_a_signed_integer_reaches() -> None:
    largest = np.finfo(np.float64).max
    assert ulps(array([largest], np.float64), array([-largest], np.float64)).tolist() == [2 * 0x7FEFFFFFFFFFFFFF]


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_equals_nan_and_zeros_and_infinities_their_own(dtype: Any) -> None:
    values = array([NAN, 0.0, -0.0, INF, -INF, 1.5], dtype)
    others = array([-NAN, -0.0, 0.0, INF, -INF, 1.5], dtype)
    assert compare(values, others) == Difference("equal", 0.0, 0.0, 0, scaled=0.0)


def test_one_ulp_is_different_without_a_tolerance_and_says_where() -> None:
    wanted = array([[1, 2], [3, 4]])
    served = wanted.copy()
    served[1, 0] = np.nextafter(np.float32(3), np.float32(4))
    step = float(np.spacing(np.float32(3)))
    assert compare(served, wanted) == Difference(
        "different", step, step / 3, 1, "[1, 0]: got 3.0000002, expected 3.0", step / 4
    )


def test_a_tolerance_by_scale_is_of_the_largest_magnitude_in_the_row() -> None:
    wanted = array([[1e-6, 100.0], [1e-6, 1.0]])
    served = wanted + array([[1e-3, 0.0], [0.0, 0.0]])
    by_scale = Tolerance(0, 0, 1e-4)
    assert compare(served, wanted, by_scale).verdict == "within tolerance"
    # The same difference in the other row, whose largest value is 1.
    other = compare(served[::-1] - wanted[::-1] + wanted, wanted, by_scale)
    assert (other.verdict, other.reason[:6]) == ("different", "[1, 0]")
    assert other.scaled == pytest.approx(1e-3, rel=1e-2)


def test_a_row_of_one_value_and_a_scalar_have_their_own_scale() -> None:
    by_scale = Tolerance(0, 0, 1e-2)
    assert compare(array([1.005, 0.02]), array([1.0, 0.01]), by_scale).reason.startswith("[1]")
    assert compare(array(1.005), array(1.0), by_scale).verdict == "within tolerance"


def test_an_infinity_in_a_row_does_not_widen_its_tolerance() -> None:
    wanted = array([[INF, 1.0]])
    assert compare(array([[INF, 1.1]]), wanted, Tolerance(0, 0, 1e-2)).verdict == "different"
    assert compare(array([[INF, 1.001]]), wanted, Tolerance(0, 0, 1e-2)).verdict == "within tolerance"


@pytest.mark.parametrize(
    ("served", "wanted", "tolerance", "verdict"),
    [
        (1.001, 1.0, Tolerance(0.01, 0), "within tolerance"),
        (1.1, 1.0, Tolerance(0.01, 0), "different"),
        (1001.0, 1000.0, Tolerance(0, 0.01), "within tolerance"),
        (1100.0, 1000.0, Tolerance(0, 0.01), "different"),
        (0.0, 1e-9, Tolerance(1e-6, 0), "within tolerance"),
        (NAN, 1.0, Tolerance(INF, INF), "different"),
        (1.0, NAN, Tolerance(1, 1), "different"),
        (INF, 1.0, Tolerance(1, 1), "different"),
        (1.0, INF, Tolerance(1, 1), "different"),
        (INF, -INF, Tolerance(1, 1), "different"),
    ],
)
def test_tolerances(served: float, wanted: float, tolerance: Tolerance, verdict: str) -> None:
    assert compare(array([5, served]), array([5, wanted]), tolerance).verdict == verdict
    assert compare(array(served), array(wanted), tolerance).verdict == verdict, "also without dimensions"


def test_the_reason_names_the_value_that_breaks_the_tolerance_not_the_largest_difference() -> None:
    found = compare(array([1000.5, 0.5]), array([1000.0, 0.4]), Tolerance(0, 0.001))
    assert found.verdict == "different"
    assert found.reason == "[1]: got 0.5, expected 0.4"
    assert found.absolute == 0.5


def test_a_nan_has_no_ulps() -> None:
    found = compare(array([NAN]), array([1]))
    assert (found.absolute, found.ulp) == (INF, None)


@pytest.mark.parametrize(
    ("served", "wanted", "reason"),
    [
        (array([1]), array([[1]]), "got shape (1,), expected (1, 1)"),
        (array([1]), array([1], np.float64), "got dtype float32, expected float64"),
        (array([1]), array([b"a"], np.object_), "got dtype float32, expected string"),
        (array([b"a", b"b"], np.object_), array([b"a", b"c"], np.object_), "[1]: got b'b', expected b'c'"),
        (array([True]), array([False], np.bool_).astype(np.bool_), "got dtype float32, expected bool"),
        (array([[True]], np.bool_), array([[False]], np.bool_), "[0, 0]: got True, expected False"),
        (array([1, 9], np.int64), array([1, 7], np.int64), "[1]: got 9, expected 7"),
        (array([1j], np.complex64), array([2j], np.complex64), "[0, 1]: got 1.0, expected 2.0"),
    ],
)
def test_everything_else_is_exact(served: Any, wanted: Any, reason: str) -> None:
    found = compare(served, wanted, Tolerance(0.1, 0.1))
    assert (found.verdict, found.reason) == ("different", reason)


@pytest.mark.parametrize(
    "values",
    [
        array([], np.float32),
        array([], np.int32),
        array([], np.object_),
        array(b"a", np.object_),
        array(3, np.uint8),
        array([True]),
        array(2.5),
        array([1 + 2j], np.complex128),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
    ],
)
def test_an_array_equals_its_copy(values: Any) -> None:
    assert compare(values, values.copy()).verdict == "equal"


def test_integers_at_both_ends_are_not_confused_by_overflow() -> None:
    ends = np.iinfo(np.int64)
    found = compare(array([ends.max], np.int64), array([ends.min], np.int64))
    assert found.verdict == "different"
    assert found.absolute == float(2**64 - 1)
