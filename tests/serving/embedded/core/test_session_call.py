"""The private way and the public way of calling a session answer the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serving.embedded.saved_models import rows
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core import session_call
from tfserving.serving.embedded.core.inference import predict
from tfserving.serving.embedded.core.loader import Runtime, Servable, load
from tfserving.serving.embedded.errors import Code, RequestError

WAYS = ("private", "public")


def opened(monkeypatch: pytest.MonkeyPatch, way: str, model: Path) -> Servable:
    if way == "public":
        monkeypatch.setenv(session_call.PUBLIC_ONLY, "1")
    else:
        monkeypatch.delenv(session_call.PUBLIC_ONLY, raising=False)
    return load(model.name, 1, model / "1", Runtime())


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def closing() -> Iterator[list[Servable]]:
    servables: list[Servable] = []
    yield servables
    for servable in servables:
        servable.close()


@pytest.mark.parametrize(
    ("signature", "array"),
    [
        ("float32", np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32)),
        ("float64", np.array(2.5)),
        ("float16", np.array([1, 2], np.float16)),
        ("int64", np.array([-(2**63), 2**63 - 1], np.int64)),
        ("uint8", np.zeros((2, 0, 3), np.uint8)),
        ("bool", np.array([True, False])),
        ("string", np.array([[b"a", b""], [b"\xff\x00", b"b"]], object)),
        ("string", np.array(b"scalar", object)),
    ],
)
def test_both_ways_answer_the_same(
    monkeypatch: pytest.MonkeyPatch,
    models: Path,
    closing: list[Servable],
    way: str,
    signature: str,
    array: Array,
) -> None:
    servable = opened(monkeypatch, way, models / "kinds")
    closing.append(servable)

    (answer,) = servable.run(servable.signatures[signature], [array], ("y",))

    assert isinstance(answer, np.ndarray)
    assert (answer.dtype, answer.shape) == (array.dtype, array.shape)
    assert answer.tobytes() == array.tobytes() if array.dtype != object else answer.tolist() == array.tolist()


def test_both_ways_read_the_models_assets(
    monkeypatch: pytest.MonkeyPatch, models: Path, closing: list[Servable], way: str
) -> None:
    servable = opened(monkeypatch, way, models / "lookup")
    closing.append(servable)

    words = np.array([b"green", b"mauve"], object)

    assert servable.run(servable.signatures["serving_default"], [words], ("id",))[0].tolist() == [1, -1]


def test_both_ways_name_a_wrong_shape(
    monkeypatch: pytest.MonkeyPatch, models: Path, closing: list[Servable], way: str
) -> None:
    servable = opened(monkeypatch, way, models / "pair")
    closing.append(servable)
    inputs = {"features": np.ones((2, 4), np.float32), "weight": np.ones(2, np.float32)}

    with pytest.raises(RequestError) as failure:
        predict(servable, servable.signatures["serving_default"], inputs, lambda array: array)

    assert failure.value.code is Code.INVALID_ARGUMENT
    assert "inputs['features']: got float32 (2, 4), expected float32 (?, 3)" in str(failure.value)


def test_an_output_that_is_an_input_can_not_be_run(models: Path, closing: list[Servable]) -> None:
    servable = load("scale", 1, models / "scale" / "1", Runtime())
    closing.append(servable)

    with pytest.raises(RequestError, match=r"serving_default_x:0 is both fed and fetched\."):
        session_call.make_call(servable._session, ["serving_default_x:0"], ["serving_default_x:0"])


def test_the_private_way_is_there_and_the_public_one_stands_in_when_it_is_not(
    models: Path, closing: list[Servable], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    assert hasattr(tf.compat.v1.Session, "_make_callable_from_options"), (
        "TensorFlow took it away: the server is slow now"
    )
    base = next(kind for kind in tf.compat.v1.Session.__mro__ if "_make_callable_from_options" in vars(kind))
    servable = load("scale", 1, models / "scale" / "1", Runtime())
    closing.append(servable)
    monkeypatch.delattr(base, "_make_callable_from_options")

    answer = servable.run(servable.signatures["serving_default"], [rows(2)], ("y",))

    assert np.array_equal(answer[0], rows(2) * 2)
