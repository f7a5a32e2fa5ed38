from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tfserving.clients.inputs import mismatches, needs_signature, to_arrays
from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.tensors import Array


def signature(**inputs: TensorInfo) -> Signature:
    return Signature("", inputs, {})


def vector(dtype: str) -> TensorInfo:
    return TensorInfo(dtype, (None,))


@pytest.mark.parametrize(
    ("inputs", "needed"),
    [
        ({"x": np.zeros(2)}, False),
        ({"x": np.float32(1)}, False),
        ({"x": [1.0]}, True),
        ({"x": np.zeros(2), "y": 1}, True),
        (np.zeros(2), True),
        ([1], True),
        ({}, False),
    ],
)
def test_the_signature_is_needed_for_what_has_no_type_or_no_name(inputs: Any, needed: bool) -> None:
    assert needs_signature(inputs) is needed


@pytest.mark.parametrize(
    ("value", "dtype", "wanted"),
    [
        ([1, 2], "float32", np.array([1, 2], np.float32)),
        ([1.5], "float64", np.array([1.5])),
        ([1, 2], "uint8", np.array([1, 2], np.uint8)),
        ([2**64 - 1, 0], "uint64", np.array([2**64 - 1, 0], np.uint64)),
        ([True], "bool", np.array([True])),
        ([1, 2.5], "complex64", np.array([1, 2.5], np.complex64)),
        ([], "int32", np.array([], np.int32)),
        ("ü", "string", np.array("ü", np.object_)),
        ([b"a\0"], "string", np.array([b"a\0"], np.object_)),
        ([], "string", np.array([], np.object_)),
        ([float("inf")], "float32", np.array([np.inf], np.float32)),
    ],
)
def test_pythons_values_take_the_type_that_is_wanted(value: Any, dtype: str, wanted: np.ndarray[Any, Any]) -> None:
    array = to_arrays({"x": value}, "s", signature(x=vector(dtype)))["x"]
    assert array.dtype == wanted.dtype
    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        ([1.0], "int32", "inputs['x']: 1.0 is not of dtype int32"),
        ([True], "int32", "inputs['x']: True is not of dtype int32"),
        ([1], "bool", "inputs['x']: 1 is not of dtype bool"),
        ([1j], "float32", "inputs['x']: 1j is not of dtype float32"),
        ([1, 300], "uint8", "inputs['x']: 300 is out of the range of uint8"),
        ([-1], "uint64", "inputs['x']: -1 is out of the range of uint64"),
        ([1e39], "float32", "inputs['x']: 1e+39 is out of the range of float32"),
        (["1"], "float32", "inputs['x']: '1' is not of dtype float32"),
        ([1], "string", "inputs['x']: a string tensor holds bytes or str, got int 1"),
        ([["a"], ["b", "c"]], "string", "inputs['x']: its lists have different lengths"),
        ([None], "float32", "inputs['x']: its values are not all numbers, booleans or strings"),
        (np.array(["2020-01-01"], "M8[D]"), "string", "inputs['x']: an array of datetime64[D] has no tensor type"),
        (np.array([1], np.object_), "string", "inputs['x']: a string tensor holds bytes or str, got int 1"),
    ],
)
def test_values_that_the_type_cannot_hold_are_refused(value: Any, dtype: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        to_arrays({"x": value}, "s", signature(x=vector(dtype)))


def test_an_array_keeps_the_type_it_has() -> None:
    array = to_arrays({"x": np.array([1.5])}, "s", signature(x=vector("float32")))["x"]
    assert array.dtype == np.float64


def test_the_names_of_inputs_are_text() -> None:
    with pytest.raises(ValueError, match="the name of an input must be a str, got int 1"):
        to_arrays({1: np.zeros(1)})


def test_everything_that_fits_is_not_mentioned() -> None:
    wanted = signature(x=TensorInfo("float32", (None, 2)), s=TensorInfo("string", None))
    arrays: dict[str, Array] = {"x": np.zeros((4, 2), np.float32), "s": np.array([["a"]])}
    assert mismatches(arrays, "s", wanted) == []


def test_each_misfit_has_its_line() -> None:
    wanted = signature(x=TensorInfo("float32", (None, 2)), y=vector("int64"), z=vector("int64"))
    arrays: dict[str, Array] = {"x": np.zeros(4, np.float32), "y": np.zeros(4, np.int32), "w": np.zeros(1)}
    assert mismatches(arrays, "s", wanted) == [
        "inputs['x']: got float32 (4,), signature 's' expects float32 (?, 2)",
        "inputs['y']: got int32 (4,), signature 's' expects int64 (?,)",
        "inputs['w'] is not an input of signature 's', which has 'x': float32 (?, 2), 'y': int64 (?,), 'z': int64 (?,)",
        "inputs['z'] is missing, signature 's' expects int64 (?,)",
    ]
    assert len(mismatches(arrays, "s", wanted, shapes=False)) == 3


def test_an_input_with_a_default_may_be_left_out() -> None:
    wanted = Signature("", {"x": vector("float32")}, {}, optional=frozenset({"x"}))
    assert mismatches({}, "s", wanted) == []
