"""How far an answer may be from the golden one."""

from __future__ import annotations

import numpy as np
import pytest

from export.tolerances import TOLERANCES, describe, judge


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_may_differ_by_a_few_roundings_and_not_by_more(dtype: str) -> None:
    golden = np.array([1.0, -200.0, 0.0], dtype)
    rounded = golden * np.array(1 + 2 * np.finfo(dtype).eps, dtype)
    assert judge(golden, golden).verdict == "equal"
    assert judge(rounded, golden).verdict == "within tolerance"
    assert judge(golden + np.array(10 * TOLERANCES[dtype].relative, dtype), golden).verdict == "different"


def test_integers_must_be_equal() -> None:
    difference = judge(np.array([1, 2, 4]), np.array([1, 2, 3]))
    assert difference.verdict == "different"
    assert describe(difference) == "largest difference 1, at [2] it is 4, not 3"


def test_strings_must_be_equal() -> None:
    difference = judge(np.array([b"a", b"c"], np.object_), np.array([b"a", b"b"], np.object_))
    assert describe(difference) == "at [1] it is b'c', not b'b'"
