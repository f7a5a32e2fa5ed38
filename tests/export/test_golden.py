"""Golden requests: what the live model is asked, and what is not let through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.arithmetic import Arithmetic
from tfserving.export.errors import ServableError
from tfserving.export.golden import DEPENDS, ROUNDED, golden_requests
from tfserving.export.rows import batch_of
from tfserving.export.servable import Servable
from tfserving.export.tolerances import Judge, to_measure


def test_every_signature_is_asked_batches_of_1_2_an_odd_size_and_32() -> None:
    requests = list(golden_requests(zoo.texts()))
    for signature in ("serving_default", "loud"):
        # The last one has the edge values, and a row that has none.
        assert [batch_of(request) for request in requests if request.signature == signature] == [1, 2, 7, 32, 3]


def test_the_batch_sizes_that_are_served_are_asked_too() -> None:
    requests = list(golden_requests(zoo.scale(), batch_sizes=(4, 16, 64)))
    assert [batch_of(request) for request in requests[:-1]] == [1, 2, 4, 7, 16, 64]


def test_the_largest_batch_bounds_the_others() -> None:
    assert [batch_of(request) for request in golden_requests(zoo.scale(), batch_sizes=(3,))][:-1] == [1, 2, 3]


def test_fewer_examples_than_rows_are_repeated() -> None:
    servable = zoo.scale()
    examples = {"serving_default": {"rows": zoo.ROWS[:12]}}
    few = type(servable)(servable.module, servable.signatures, examples)
    requests = list(golden_requests(few))
    assert [batch_of(request) for request in requests[:-1]] == [1, 2, 7, 32]
    np.testing.assert_array_equal(requests[3].inputs["rows"], np.resize(zoo.ROWS[:12], (32, 3)))


def test_the_rows_of_the_small_batches_do_not_overlap_and_lie_in_the_large_one() -> None:
    one, two, seven, large, _ = golden_requests(zoo.scale())
    small = np.concatenate([request.inputs["rows"] for request in (one, two, seven)])
    np.testing.assert_array_equal(small, zoo.ROWS[:10])
    np.testing.assert_array_equal(large.inputs["rows"], zoo.ROWS[:32])


def test_the_answers_are_what_the_live_model_answers() -> None:
    servable = zoo.trained()
    for request in golden_requests(servable):
        wanted = servable.module(request.inputs["rows"], training=False).numpy()
        np.testing.assert_array_equal(request.outputs["scaled"], wanted)


@pytest.mark.parametrize(
    ("builder", "problem"),
    [
        (zoo.missing_output, "returns the outputs 'scaled', but it declares 'label', 'scaled'"),
        (zoo.undeclared_output, "returns the outputs 'extra', 'scaled', but it declares 'scaled'"),
        (zoo.too_few, "returns a tensor, but the declared outputs are 'label', 'scaled'. Return a dict"),
        (zoo.no_batch_output, "output 'scaled' has shape () for 32 rows. It must begin with the batch"),
        (zoo.ragged, "output 'scaled': expected a dense tensor, got a RaggedTensor. Convert it with .to_tensor("),
        (zoo.raising, "its function fails for a batch of 32: InvalidArgumentError"),
        (zoo.fixed_function_batch, "its function fails for a batch of 32"),
        (zoo.random, "output 'scaled': the same request gets another output the second time: largest difference "),
        (
            zoo.batch_dependent,
            "output 'scaled': rows 0 to 0 of the examples get other outputs in a batch of 1 than in one of 32: ",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_signature_that_does_not_do_what_it_says_is_refused(builder: Callable[[], Any], problem: str) -> None:
    with pytest.raises(ServableError) as refused:
        list(golden_requests(builder()))
    assert str(refused.value).removeprefix("[output-batch] ").startswith("signature 'serving_default'")
    assert problem in str(refused.value)


RESNET = Arithmetic(frozenset({"float32"}), 53)


def by_batch_size(difference: float, *, label: bool = False) -> Servable:
    """A model whose kernels return something else for one row, as a GPU's do; its scores are up to 5."""
    module = zoo.Scale()

    def scaled(rows: Any) -> dict[str, Any]:
        scores = 5.0 * tf.math.tanh(rows * module.factor)
        alone = tf.shape(rows)[0] == 1
        more = {"label": tf.fill(tf.shape(rows)[:1], tf.cast(alone, tf.int64))} if label else {}
        return {"scaled": scores + tf.where(alone, difference, 0.0), **more}

    return zoo.servable(module, scaled, ("scaled", *(("label",) if label else ())))


def test_what_resnet50_differs_by_between_batch_sizes_on_a_gpu_is_let_through() -> None:
    # 1.9e-4, or 3.8e-5 of the largest output, on an H200.
    judge = Judge(to_measure("gpu", RESNET))
    assert len(list(golden_requests(by_batch_size(1.9e-4), judge))) == 5
    chosen = judge.chosen("float32")
    assert chosen is not None
    assert 1e-4 <= chosen.scale <= 4e-4


@pytest.mark.parametrize(
    ("servable", "why"),
    [(by_batch_size(2e-2), ROUNDED), (by_batch_size(1e-5, label=True), ROUNDED), (zoo.batch_dependent(), DEPENDS)],
    ids=["float16", "label", "statistics of the batch"],
)
@pytest.mark.parametrize("judge", [Judge(), Judge(to_measure("gpu", RESNET))], ids=["cpu", "gpu"])
def test_rounding_is_not_taken_for_a_dependence_on_other_rows(servable: Servable, why: str, judge: Judge) -> None:
    with pytest.raises(ServableError) as refused:
        list(golden_requests(servable, judge))
    assert "rows 0 to 0 of the examples get other outputs in a batch of 1 than in one of 32: " in str(refused.value)
    assert str(refused.value).endswith(why)
