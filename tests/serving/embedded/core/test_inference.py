from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serving.embedded.saved_models import rows
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.inference import predict
from tfserving.serving.embedded.core.loader import Runtime, Servable, load
from tfserving.serving.embedded.core.signature import Signature
from tfserving.serving.embedded.errors import Code, RequestError

GOOD: dict[str, Array] = {"features": rows(2), "weight": np.ones(2, np.float32)}


@pytest.fixture(scope="module")
def servable(models: Path) -> Iterator[Servable]:
    servable = load("pair", 1, models / "pair" / "1", Runtime())
    yield servable
    servable.close()


@pytest.fixture
def signature(servable: Servable) -> Signature:
    return servable.signatures["serving_default"]


def ask(servable: Servable, signature: Signature, sent: dict[str, Array], *output_filter: str) -> dict[str, Array]:
    return predict(servable, signature, sent, lambda array: array, output_filter)


def test_outputs_come_by_name(servable: Servable, signature: Signature) -> None:
    outputs = ask(servable, signature, GOOD)

    assert {name: array.tolist() for name, array in outputs.items()} == {
        "doubled": [[0, 2, 4], [6, 8, 10]],
        "total": [3, 12],
    }


def test_the_order_of_what_is_sent_does_not_matter(servable: Servable, signature: Signature) -> None:
    backwards = dict(reversed(GOOD.items()))

    assert ask(servable, signature, backwards)["total"].tolist() == [3, 12]


def test_a_filter_names_the_outputs(servable: Servable, signature: Signature) -> None:
    assert list(ask(servable, signature, GOOD, "total")) == ["total"]


@pytest.mark.parametrize(
    ("output_filter", "text"),
    [
        (
            ["nope"],
            "output tensor alias not found in signature: nope Outputs expected to be in the set {doubled,total}.",
        ),
        ([""], "output tensor alias not found in signature:  Outputs expected to be in the set {doubled,total}."),
        (["total", "total"], "duplicate output tensor alias: total"),
    ],
)
def test_a_filter_that_names_none_or_one_twice(
    servable: Servable, signature: Signature, output_filter: list[str], text: str
) -> None:
    with pytest.raises(RequestError) as failure:
        ask(servable, signature, GOOD, *output_filter)

    assert (failure.value.code, str(failure.value)) == (Code.INVALID_ARGUMENT, text)


def test_an_input_with_a_default_may_be_left_out(servable: Servable, signature: Signature) -> None:
    defaulted = Signature(
        signature.name, signature.method, signature.inputs, signature.outputs, {"weight": np.full(2, 10, np.float32)}
    )

    assert ask(servable, defaulted, {"features": rows(2)})["total"].tolist() == [30, 120]
    assert ask(servable, defaulted, GOOD)["total"].tolist() == [3, 12]


def test_only_the_inputs_that_do_not_fit_are_explained(servable: Servable, signature: Signature) -> None:
    with pytest.raises(RequestError) as failure:
        ask(servable, signature, GOOD | {"weight": np.ones((3, 5), np.float32)})

    assert failure.value.explanation == ("inputs['weight']: got float32 (3, 5), expected float32 (?,)")


def test_an_error_of_the_graph_that_no_shape_explains_is_left_as_it_is(
    servable: Servable, signature: Signature
) -> None:
    with pytest.raises(RequestError) as failure:
        ask(servable, signature, GOOD | {"weight": np.ones(5, np.float32)})

    assert "Incompatible shapes" in failure.value.text
    assert not failure.value.explanation
