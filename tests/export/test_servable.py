"""What a builder may declare, and what it is told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tfserving.export.errors import ServableError
from tfserving.export.servable import Evaluation, Servable, Signature, TensorSpec

ROWS = np.zeros((32, 3), np.float32)


def problems(
    inputs: Mapping[str, TensorSpec] | None = None,
    outputs: tuple[str, ...] = ("y",),
    name: str = "serving_default",
    examples: Mapping[str, Any] | None = None,
    **other: Any,
) -> str:
    inputs = {"x": TensorSpec("float32", (None, 3))} if inputs is None else inputs
    signature = Signature(lambda **_: {}, inputs, outputs, other.pop("method", "predict"), other.pop("defaults", {}))
    given = {"x": ROWS} if examples is None else examples
    servable = Servable(None, {name: signature}, other.pop("all_examples", {name: given}), **other)
    try:
        servable.check()
    except ServableError as error:
        return str(error)
    return ""


def test_a_right_declaration_passes() -> None:
    assert not problems()
    assert not problems({"x": TensorSpec("string", None)}, examples={"x": np.array(["a"] * 10)})
    assert not problems({"x": TensorSpec("float32", (None, None))}, metrics={"accuracy": np.float64(0.5), "count": 3})


def test_an_input_without_a_batch_is_refused() -> None:
    assert "input 'x' is a scalar. Make its first dimension the batch, None" in problems(
        {"x": TensorSpec("float32", ())}
    )


def test_an_input_that_may_be_left_out_has_a_value_that_fits() -> None:
    inputs = {"x": TensorSpec("float32", (None, 3)), "z": TensorSpec("string", (None,))}
    examples = {"x": ROWS, "z": np.full(len(ROWS), "a", np.object_)}

    def with_default(**defaults: Any) -> str:
        return problems(inputs, examples=examples, defaults=defaults)

    assert not with_default(z=np.array([b""], np.object_))
    assert "the default of input 'y': there is no such input; the inputs are 'x', 'z'" in with_default(y=ROWS)
    assert "the default of input 'z': got 'a', expected a numpy array string (?,)" in with_default(z="a")
    assert "the default of input 'x': got float32 (3,), the signature expects float32 (?, 3)" in with_default(x=ROWS[0])
    both = with_default(x=ROWS[:1], z=np.array([b""], np.object_))
    assert "the default of input 'x': at least one input must have no default, which has the rows of the batch" in both


@pytest.mark.parametrize("name", ["", "a b", "1st", "_x", "x:0", "lambda"])
def test_names_that_are_none_are_refused(name: str) -> None:
    assert f"output {name!r}: use only letters" in problems(outputs=(name,))
    if name != "lambda":
        assert f"signature {name!r}: use only letters" in problems(name=name)


def test_a_type_that_cannot_be_served_is_refused() -> None:
    assert "input 'x': got dtype 'qint8', expected one of float32" in problems({"x": TensorSpec("qint8", (None, 3))})


def test_inputs_and_outputs_must_be_named() -> None:
    assert "declares no inputs" in problems({}, examples={})
    assert "declares no outputs" in problems(outputs=())
    assert "('y', 'y') contains an output twice" in problems(outputs=("y", "y"))


def test_a_servable_needs_a_signature() -> None:
    with pytest.raises(ServableError, match="the servable has no signature; add 'serving_default'"):
        Servable(None, {}, {}).check()


def test_a_method_that_cannot_be_exported_is_refused() -> None:
    assert "got method 'guess', expected predict or classify or regress" in problems(method="guess")


@pytest.mark.parametrize(
    ("examples", "problem"),
    [
        ({}, "signature 'serving_default' has no examples; give at least 10 real rows of 'x'"),
        ({"z": ROWS}, "the examples have the inputs 'z', expected 'x'"),
        ({"x": ROWS.astype(np.float64)}, "input 'x': got float64 (32, 3), the signature expects float32 (?, 3)"),
        ({"x": ROWS[:, :2]}, "input 'x': got float32 (32, 2), the signature expects float32 (?, 3)"),
        ({"x": ROWS[0]}, "input 'x': got float32 (3,), the signature expects float32 (?, 3)"),
        ({"x": ROWS.tolist()}, "input 'x': got list, expected a numpy array float32 (?, 3)"),
        ({"x": ROWS[:9]}, "got 9 rows of examples, expected at least 10"),
    ],
    ids=["none", "other input", "dtype", "shape", "rank", "no array", "few"],
)
def test_examples_must_fit_the_signature(examples: Mapping[str, Any], problem: str) -> None:
    assert problem in problems(examples=examples)


def test_examples_of_two_inputs_must_have_the_same_rows() -> None:
    spec = TensorSpec("float32", (None, 3))
    assert "different numbers of example rows: {'x': 32, 'z': 11}" in problems(
        {"x": spec, "z": spec}, examples={"x": ROWS, "z": ROWS[:11]}
    )


def test_examples_of_a_signature_that_is_none_are_refused() -> None:
    every = {"serving_default": {"x": ROWS}, "other": {"x": ROWS}}
    assert "examples['other']: there is no such signature; the signatures are 'serving_default'" in problems(
        all_examples=every
    )


@pytest.mark.parametrize("value", ["high", True, float("nan"), None])
def test_a_metric_must_be_a_number(value: object) -> None:
    assert f"metrics['accuracy']: expected a finite number, got {value!r}" in problems(metrics={"accuracy": value})


SCORED = Evaluation({"x": ROWS}, np.zeros(32, np.int64))
MEAN: Any = np.mean
WRONG: Any = [0] * 32


@pytest.mark.parametrize(
    ("evaluation", "problem"),
    [
        (SCORED, ""),
        (replace(SCORED, metric="acuracy"), "metric: got 'acuracy', expected accuracy, auc, mae, or"),
        (replace(SCORED, metric=lambda *_: 1.0), "or an importable function"),
        (replace(SCORED, metric=MEAN), "the metric numpy:mean needs True or False"),
        (replace(SCORED, metric=MEAN, higher_is_better=True), ""),
        (replace(SCORED, higher_is_better=True), "the direction of accuracy is fixed"),
        (replace(SCORED, drop=-0.1), "drop: got -0.1"),
        (replace(SCORED, labels=WRONG), "labels: got list, expected a numpy array with one row"),
        (replace(SCORED, labels=np.zeros(31)), "different numbers of rows"),
        (Evaluation({"x": ROWS[:3]}, np.zeros(3)), "got 3 rows, expected 10 to 100000"),
        (replace(SCORED, inputs={}), "the input 'x' is missing"),
        (replace(SCORED, inputs={"z": ROWS}), "there is no input 'z'; the inputs are 'x'"),
        (replace(SCORED, inputs={"x": ROWS[:, :2]}), "got float32 (32, 2), the signature expects float32 (?, 3)"),
        (replace(SCORED, output="z"), "there is no output 'z'; the outputs are 'y'"),
        (replace(SCORED, signature="other"), "there is no signature 'other'"),
    ],
)
def test_labelled_rows_must_be_rows_of_a_signature(evaluation: Evaluation, problem: str) -> None:
    told = problems(evaluation=evaluation)
    assert problem in told
    assert bool(told) == bool(problem)


def test_labelled_rows_say_which_of_several_outputs_they_measure() -> None:
    assert "set `output` to the output to measure: 'y', 'z'" in problems(outputs=("y", "z"), evaluation=SCORED)
    assert not problems(outputs=("y", "z"), evaluation=replace(SCORED, output="z"))


def test_every_problem_is_told_at_once() -> None:
    told = problems({"a b": TensorSpec("qint8", ())}, outputs=("1st",)).splitlines()
    assert len(told) == 5, told
