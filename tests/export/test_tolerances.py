"""How far an answer may be from the golden one."""

from __future__ import annotations

import numpy as np
import pytest

from tfserving.export.tolerances import MOST, TOLERANCES, Judge, describe
from tfserving.foundation.compare import Tolerance


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
