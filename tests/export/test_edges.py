"""Edge values: what clients send sooner or later, asked before they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.edges import UNICODE, edge_rows
from tfserving.export.errors import ProofError
from tfserving.export.examples import serialized_examples
from tfserving.export.exporter import Exported
from tfserving.export.golden import golden_requests
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.golden import read_golden
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


def test_one_golden_request_has_all_edge_values_that_the_model_answers_and_an_ordinary_row() -> None:
    *_, last = golden_requests(zoo.scale())
    rows = last.inputs["rows"]
    assert rows[0].tolist() == [0.0, 0.0, 0.0]
    assert rows[1:3].tolist() == [[np.finfo(np.float32).max] * 3, [np.finfo(np.float32).min] * 3]
    assert np.isnan(rows[3]).all()
    assert np.isnan(last.outputs["scaled"][3]).all()
    assert rows[4].tolist() == zoo.ROWS[0].tolist()


def strict(problem: Any) -> Servable:
    module = zoo.Scale()

    def scaled(rows: Any) -> Any:
        tf.debugging.assert_all_finite(rows, "NaN is refused")
        return {"scaled": rows * module.factor}

    return zoo.servable(module, problem or scaled)


def test_a_value_that_the_model_refuses_is_left_out_and_told() -> None:
    notes: list[str] = []
    *_, last = golden_requests(strict(None), note=notes.append)
    assert len(last.inputs["rows"]) == 4
    assert notes == ["signature 'serving_default' fails on these edge values, so no golden request has them: nan"]


def test_a_value_that_changes_the_answers_beside_it_is_left_out_and_told() -> None:
    # A NaN anywhere makes a sum over the batch one; ordinary rows add zero.
    notes: list[str] = []
    servable = strict(lambda rows: {"scaled": rows + 0 * tf.reduce_sum(tf.where(tf.math.is_nan(rows), rows, 0))})
    *_, last = golden_requests(servable, note=notes.append)
    assert np.isfinite(last.inputs["rows"]).all()
    assert len(last.inputs["rows"]) == 4
    assert notes == [
        "signature 'serving_default' answers other rows otherwise beside these edge values, so no golden request has "
        "them: nan"
    ]


# TensorFlow's fused kernels do it with NaN on some processors, this on all of them: its graph has other code.
def otherwise_in_the_graph(where: Callable[[Any], Any]) -> Servable:
    def scaled(rows: Any) -> Any:
        return {"scaled": rows * 1 if tf.executing_eagerly() else tf.where(where(rows), 0.5, rows * 1)}

    return zoo.servable(tf.Module(), scaled)


def test_a_value_of_which_the_graph_makes_another_nan_is_left_out_and_told(
    export_here: Callable[..., Exported], capsys: pytest.CaptureFixture[str]
) -> None:
    exported = export_here(lambda: otherwise_in_the_graph(tf.math.is_nan))
    (*_, last) = read_golden(exported.path).requests
    assert last.inputs["rows"][:, 0].tolist() == [
        0.0,
        np.finfo(np.float32).max,
        np.finfo(np.float32).min,
        zoo.ROWS[0, 0],
    ]
    assert "the graph makes something else of NaN or infinity than the model's Python, so no golden request has " in (
        said := capsys.readouterr().out
    )
    assert said.count("these edge values: nan\n") == 1


def test_a_number_of_which_the_graph_makes_another_is_an_error(export_here: Callable[..., Exported]) -> None:
    with pytest.raises(ProofError, match=r"a batch of 5 otherwise than the live model: largest difference 0\.5"):
        export_here(lambda: otherwise_in_the_graph(lambda rows: rows == 0))


def test_no_other_row_may_be_answered_otherwise_because_of_nan(export_here: Callable[..., Exported]) -> None:
    with pytest.raises(ProofError, match="otherwise than the live model"):
        export_here(lambda: otherwise_in_the_graph(lambda rows: rows == zoo.ROWS[0]))
