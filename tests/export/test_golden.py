"""Golden requests: what the live model is asked, and what is not let through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.export import zoo
from tfserving.export.errors import ServableError
from tfserving.export.golden import golden_requests
from tfserving.export.rows import batch_of


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
