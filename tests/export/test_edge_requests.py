"""The golden request with edge values: which of them it has, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.edge_requests import LeftOut
from tfserving.export.errors import ProofError
from tfserving.export.exporter import Exported
from tfserving.export.golden import golden_requests
from tfserving.export.inspection import inspect_version
from tfserving.export.manifest import read_manifest
from tfserving.export.servable import Servable
from tfserving.foundation.golden import read_golden


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
    notes: list[LeftOut] = []
    *_, last = golden_requests(strict(None), note=notes.append)
    assert len(last.inputs["rows"]) == 4
    assert list(map(str, notes)) == [
        "signature 'serving_default' raises an error for these edge values, so no golden request contains them: nan"
    ]


def test_a_value_that_changes_the_answers_beside_it_is_left_out_and_told() -> None:
    # A NaN anywhere makes a sum over the batch one; ordinary rows add zero.
    notes: list[LeftOut] = []
    servable = strict(lambda rows: {"scaled": rows + 0 * tf.reduce_sum(tf.where(tf.math.is_nan(rows), rows, 0))})
    *_, last = golden_requests(servable, note=notes.append)
    assert np.isfinite(last.inputs["rows"]).all()
    assert len(last.inputs["rows"]) == 4
    assert list(map(str, notes)) == [
        "signature 'serving_default' returns other outputs for the rows beside these edge values, so no golden request "
        "contains them: nan"
    ]


# TensorFlow's fused kernels do it with NaN on some processors, this on all of them: its graph has other code.
def otherwise_in_the_graph(where: Callable[[Any], Any]) -> Servable:
    def scaled(rows: Any) -> Any:
        return {"scaled": rows * 1 if tf.executing_eagerly() else tf.where(where(rows), 0.5, rows * 1)}

    return zoo.servable(tf.Module(), scaled)


def test_a_value_of_which_the_graph_makes_another_nan_is_left_out_as_the_manifest_tells(
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
    # It is so with most models.
    assert "nan" not in capsys.readouterr().err
    assert read_manifest(exported.path).edge_values_left_out == {"serving_default": {"differs": ("nan",)}}
    facts = dict(inspect_version(exported.path)._facts())
    assert facts["edge values, serving_default"] == (
        "left out, because the served graph and the model's Python code return different outputs: nan"
    )


def test_a_value_that_the_model_refuses_is_told_when_it_is_exported(
    export_here: Callable[..., Exported], capsys: pytest.CaptureFixture[str]
) -> None:
    exported = export_here(lambda: strict(None))
    told = (
        "model: signature 'serving_default' raises an error for these edge values, so no golden request "
        "contains them: nan"
    )
    assert capsys.readouterr().err.splitlines().count(told) == 1
    assert read_manifest(exported.path).edge_values_left_out == {"serving_default": {"fails": ("nan",)}}


def test_a_number_of_which_the_graph_makes_another_is_an_error(export_here: Callable[..., Exported]) -> None:
    with pytest.raises(ProofError, match=r"for a batch of 5, the version run .* largest difference 0\.5"):
        export_here(lambda: otherwise_in_the_graph(lambda rows: rows == 0))


def test_no_other_row_may_be_answered_otherwise_because_of_nan(export_here: Callable[..., Exported]) -> None:
    with pytest.raises(ProofError, match="and the live model return different values"):
        export_here(lambda: otherwise_in_the_graph(lambda rows: rows == zoo.ROWS[0]))
