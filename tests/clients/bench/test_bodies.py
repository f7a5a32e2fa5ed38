"""What is sent."""

from __future__ import annotations

import numpy as np
import pytest

from tfserving.clients.address import Address
from tfserving.clients.bench.bodies import BodiesError, bodies_of, made_up, of_rows
from tfserving.clients.errors import Call
from tfserving.clients.results import Signature, TensorInfo


def test_numbers_are_made_up_for_every_input() -> None:
    inputs = {"x": TensorInfo("float32", (None, 3)), "n": TensorInfo("int64", ()), "d": TensorInfo("bool", (2,))}
    made = made_up("s", Signature("", inputs, {}, frozenset({"d"})))
    assert {name: (array.dtype.name, array.shape) for name, array in made.items()} == {
        "x": ("float32", (1, 3)),
        "n": ("int64", ()),
    }
    with pytest.raises(BodiesError, match="can't be generated; give --input or --requests"):
        made_up("s", Signature("", {"s": TensorInfo("string", (None,))}, {}))


def test_rows_are_repeated_or_cut() -> None:
    rows = {"x": np.arange(6).reshape(3, 2), "y": np.arange(3)}
    assert {name: len(array) for name, array in of_rows(rows, 5).items()} == {"x": 5, "y": 5}
    assert of_rows(rows, 4)["x"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert of_rows(rows, 1)["y"].tolist() == [0]
    with pytest.raises(BodiesError, match="don't have the same number of rows"):
        of_rows({"x": np.zeros(()), "y": np.zeros(2)}, 2)


def test_what_a_protocol_can_not_carry_is_refused() -> None:
    with pytest.raises(BodiesError, match="can't carry complex numbers"):
        bodies_of(Address("rest", ""), Call(signature="s"), [{"x": np.zeros(1, np.complex64)}])
