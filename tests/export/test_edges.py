"""Edge values: what clients send sooner or later, asked before they do."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfserving.export.edges import UNICODE, edge_rows
from tfserving.export.examples import serialized_examples
from tfserving.export.servable import Signature, TensorSpec
from tfserving.foundation.messages import Example


def edges(array: Any, method: Any = "predict") -> list[Any]:
    """The values that the edge rows of one input have."""
    name = "x" if method == "predict" else "inputs"
    signature = Signature(lambda **_: {}, {name: TensorSpec("float32", (None,))}, ("y",), method)
    rows = [row[name] for _, row in edge_rows(signature, {name: array})]
    assert all(row.shape == array[:1].shape and row.dtype == array.dtype for row in rows)
    return [row.ravel()[0] for row in rows]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_are_zero_the_largest_the_smallest_and_nan(dtype: Any) -> None:
    zero, largest, smallest, nan = edges(np.ones((3, 2), dtype))
    limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    assert (zero, largest, smallest) == (0, limits.max, limits.min)
    assert np.isnan(nan)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_small_integers_are_zero_and_the_limits_of_their_type(dtype: Any) -> None:
    assert edges(np.ones(3, dtype)) == [0, np.iinfo(dtype).max, np.iinfo(dtype).min]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_large_integers_can_be_counts_and_stay_within_the_examples(dtype: Any) -> None:
    assert edges(np.array([4, 9, 2], dtype)) == [0, 9, 2]


def test_strings_are_empty_and_all_sorts_of_unicode() -> None:
    assert edges(np.array([b"word", b"other"], np.object_)) == [b"", UNICODE.encode()]


def test_booleans_are_false() -> None:
    assert edges(np.array([True, False])) == [False]


def test_the_features_of_an_example_are_replaced_by_their_kind() -> None:
    rows = [{"length": 1.5, "count": 3, "name": "rose"}, {"length": 2.5, "count": 5, "name": "tulip"}]
    made = [Example.FromString(row) for row in edges(serialized_examples(rows), "regress")]
    values = [
        (
            example.features.feature["length"].float_list.value[0],
            example.features.feature["count"].int64_list.value[0],
            example.features.feature["name"].bytes_list.value[0],
        )
        for example in made
    ]
    largest = float(np.finfo(np.float32).max)
    # Of one example the largest count is its own.
    assert values[:3] == [(0.0, 0, b"rose"), (largest, 3, b"rose"), (-largest, 3, b"rose")]
    assert np.isnan(values[3][0])
    assert [name for _, _, name in values[4:]] == [b"", UNICODE.encode()]


def test_the_inputs_of_a_signature_are_replaced_together() -> None:
    signature = Signature(lambda **_: {}, {}, ("y",))
    examples = {"size": np.array([2, 7]), "text": np.array([b"a", b"b"], np.object_)}
    rows = list(edge_rows(signature, examples))
    assert [(edge, row["size"][0], row["text"][0]) for edge, row in rows] == [
        ("zero", 0, b"a"),
        ("largest", 7, b"a"),
        ("smallest", 2, b"a"),
        ("empty", 2, b""),
        ("unicode", 2, UNICODE.encode()),
    ]
