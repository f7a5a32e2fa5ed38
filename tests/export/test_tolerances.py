"""How far an answer may be from the golden one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfserving.export.arithmetic import Arithmetic, traced_arithmetic
from tfserving.export.tolerances import MOST, TOLERANCES, Judge, describe, from_table, minimum, to_measure, widest
from tfserving.foundation.compare import Tolerance, compare
from tfserving.foundation.devices import Device


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_may_differ_by_a_few_roundings_and_not_by_more(dtype: str) -> None:
    golden, judge = np.array([1.0, -200.0, 0.0], dtype), Judge()
    rounded = golden * np.array(1 + 2 * np.finfo(dtype).eps, dtype)
    assert judge.judge(golden, golden).verdict == "equal"
    assert judge.judge(rounded, golden).verdict == "within tolerance"
    apart = golden + np.array(3 * MOST * TOLERANCES[dtype].relative, dtype)
    assert judge.judge(apart, golden).verdict == "different"


def test_the_tolerance_is_the_standing_one_when_all_answers_were_equal() -> None:
    judge = Judge()
    judge.judge(np.ones(3, np.float32), np.ones(3, np.float32))
    assert judge.chosen("float32") == TOLERANCES["float32"]
    assert judge.chosen("int64") is None


def test_answers_that_were_seen_apart_widen_it_to_four_times_that() -> None:
    judge = Judge({"float32": Tolerance(1e-5, 0.0)})
    golden = np.zeros(3, np.float32)
    judge.judge(golden + np.float32(1e-6), golden)
    assert judge.chosen("float32") == Tolerance(1e-5, 0.0)
    assert judge.judge(golden + np.float32(5e-5), golden).verdict == "within tolerance"
    assert judge.chosen("float32") == Tolerance(2e-4, 0.0)


def test_equal_infinities_and_nans_do_not_widen_it() -> None:
    judge = Judge()
    golden = np.array([np.inf, -np.inf, np.nan, 1.0], np.float32)
    judge.judge(golden, golden)
    judge.judge(golden + np.float32(1e-6), golden)
    assert judge.chosen("float32") == TOLERANCES["float32"]


def test_integers_must_be_equal() -> None:
    difference = Judge().judge(np.array([1, 2, 4]), np.array([1, 2, 3]))
    assert difference.verdict == "different"
    assert describe(difference) == "largest difference 1, [2]: got 4, expected 3"


def test_strings_must_be_equal() -> None:
    difference = Judge().judge(np.array([b"a", b"c"], np.object_), np.array([b"a", b"b"], np.object_))
    assert describe(difference) == "[1]: got b'c', expected b'b'"


PRODUCT = Arithmetic(frozenset({"float32"}))
DEEP = Arithmetic(frozenset({"float32"}), 10)


@pytest.mark.parametrize(
    ("device", "arithmetic", "largest", "difference", "passes"),
    [
        # Measured on an H200, as a part of the largest output: without TF32, and with it.
        ("gpu", PRODUCT, 4.0, 1.0e-6, True),
        ("gpu", PRODUCT, 4.0, 1.1e-3, False),
        ("gpu", DEEP, 1.8, 1.1e-5, True),
        ("gpu", DEEP, 4.0, 3.8e-5, True),
        ("gpu", DEEP, 4.0, 4.7e-2, False),
        ("gpu-tf32", PRODUCT, 1.5, 3.8e-4, True),
        ("gpu-tf32", PRODUCT, 4.0, 1.1e-3, True),
        ("gpu-tf32", PRODUCT, 4.0, 4.7e-2, False),
    ],
)
def test_the_table_has_room_for_what_was_measured_and_not_for_other_devices(
    device: Device, arithmetic: Arithmetic, largest: float, difference: float, *, passes: bool
) -> None:
    golden = np.array([[largest, 1e-7, 0.0]], np.float32)
    served = golden + np.array([[0.0, difference * largest, 0.0]], np.float32)
    table = minimum(device, arithmetic)
    assert table is not None
    verdict = compare(served, golden, table["float32"]).verdict
    assert verdict == ("within tolerance" if passes else "different")
    # The processor's own set has no room for it beside a value near zero, but for the smallest.
    assert compare(served, golden, TOLERANCES["float32"]).verdict == (
        "within tolerance" if difference * largest < 1e-5 else "different"
    )


def test_tf32_of_deep_convolutional_networks_is_not_in_the_table() -> None:
    assert minimum("gpu-tf32", DEEP) is None
    assert minimum("gpu-tf32", Arithmetic(frozenset({"float32"}), 9)) is not None
    # A measurement starts from the values of other models.
    assert to_measure("gpu-tf32", DEEP)["float32"] == Tolerance(1e-3, 1e-5, 5e-3)
    assert to_measure("cpu", DEEP)["float32"] == Tolerance(1e-5, 1e-5, 1e-4)


def test_tf32_changes_no_convolution_of_float16() -> None:
    half = minimum("gpu-tf32", Arithmetic(frozenset({"float16"}), 50))
    assert half is not None
    assert half["float16"] == Tolerance(1e-3, 1e-2, 5e-3)


def test_an_output_is_as_inexact_as_the_products_behind_it() -> None:
    tables = {products: minimum("gpu", Arithmetic(frozenset({products}))) for products in ("float16", "float64")}
    assert tables["float64"] is not None
    assert tables["float16"] is not None
    assert tables["float64"]["float64"] == Tolerance(1e-12, 1e-10, 1e-12)
    # Cast from float16, for example by Keras with mixed precision.
    assert tables["float16"]["float32"] == Tolerance(1e-3, 1e-2, 2e-3)


def test_every_set_has_at_least_what_was_observed_on_the_processor() -> None:
    half = {"float32": Tolerance(1e-3, 1e-2)}
    sets = from_table(half, PRODUCT)
    assert sets["cpu"] == half
    assert sets["gpu"]["float32"] == Tolerance(1e-3, 1e-2, 1e-5)
    assert sets["gpu-tf32"]["float32"] == Tolerance(1e-3, 1e-2, 5e-3)
    assert widest(Tolerance(1, 0, 3), Tolerance(0, 2, 0)) == Tolerance(1, 2, 3)


def test_products_are_found_in_functions_and_counted_for_each_signature() -> None:
    kernel = tf.ones((1, 1, 1, 1))

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 1))])  # type: ignore[untyped-decorator]
    def filtered(maps: tf.Tensor) -> tf.Tensor:
        for _ in range(6):
            maps = tf.nn.conv2d(maps, kernel, 1, "SAME")
        return maps

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 1))])  # type: ignore[untyped-decorator]
    def more(maps: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(tf.reshape(filtered(maps), (-1, 4)), tf.float64)
        return wide @ tf.ones((4, 1), tf.float64)

    traced = [one.get_concrete_function() for one in (filtered, more)]
    assert traced_arithmetic(traced) == Arithmetic(frozenset({"float32", "float64"}), 6)
    assert not traced_arithmetic(traced).is_deep
    assert traced_arithmetic([tf.function(tf.math.abs).get_concrete_function(tf.TensorSpec((2,)))]) == Arithmetic()
