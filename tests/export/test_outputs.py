"""What a signature's function may return, and what is said of everything else: eagerly and as a graph, the same."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.zoo import ROWS, Scale, servable
from tfserving.export import savedmodel
from tfserving.export.errors import ServableError
from tfserving.export.exporter import Exported
from tfserving.export.live import LiveSignature
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.golden import read_golden

Returned = Callable[[Any], Any]
Pair = namedtuple("Pair", ("second", "first"))


class ModelOutput(OrderedDict[str, Any]):
    """As models of transformers return it."""


@dataclasses.dataclass
class Answer:
    first: Any
    second: Any = None


def of_rows(returned: Returned) -> Callable[..., Any]:
    """The same, called by the name of the input."""

    def function(rows: Any) -> Any:
        return returned(rows)

    return function


# What is returned of rows, and which output each of its tensors becomes: the rows times that number.
NAMED: dict[str, tuple[Returned, dict[str, int]]] = {
    "dict": (lambda x: {"b": x * 2, "a": x}, {"a": 1, "b": 2}),
    "tensor": (lambda x: x, {"only": 1}),
    "list": (lambda x: [x, x * 2], {"b": 1, "a": 2}),
    "nested list": (lambda x: (x, [x * 2, (x * 3,)]), {"a": 1, "b": 2, "c": 3}),
    "named tuple": (lambda x: Pair(second=x * 2, first=x), {"first": 1, "second": 2}),
    "named tuple by position": (lambda x: Pair(x, x * 2), {"one": 1, "two": 2}),
    "dataclass": (lambda x: Answer(x, [x * 2]), {"first": 1, "second_0": 2}),
    "list in a dict": (lambda x: {"y": x, "more": [x * 2, x * 3]}, {"more_1": 3, "y": 1, "more_0": 2}),
    "dict in a dict": (
        lambda x: {"y": x, "more": {"a": [x * 2], "b": (x * 3, {"c": x * 4})}},
        {"y": 1, "more_a_0": 2, "more_b_0": 3, "more_b_1_c": 4},
    ),
    "model output": (lambda x: ModelOutput(y=x, states=(x * 2, None)), {"y": 1, "states_0": 2}),
    "nothing": (lambda x: {"y": x, "attentions": None, "states": (), "more": [None]}, {"y": 1}),
    "slices": (lambda x: {"y": tf.IndexedSlices(x, tf.range(tf.shape(x)[0]), tf.shape(x))}, {"y": 1}),
}


@pytest.mark.parametrize("kind", NAMED)
def test_tensors_get_the_names_that_are_declared(kind: str) -> None:
    returned, wanted = NAMED[kind]
    module = servable(tf.Module(), of_rows(returned), tuple(wanted))
    answered = LiveSignature("serving_default", module.signatures["serving_default"]).run({"rows": ROWS}).outputs
    graph = savedmodel.trace(module)["serving_default"]({"rows": tf.constant(ROWS)})
    assert list(answered) == list(wanted)
    assert set(graph) == set(wanted)
    for name, factor in wanted.items():
        np.testing.assert_array_equal(answered[name], ROWS * np.float32(factor))
        np.testing.assert_array_equal(graph[name].numpy(), ROWS * np.float32(factor))


DENSE = "expected a dense tensor, got"
REFUSED: dict[str, tuple[Returned, str]] = {
    "list": (
        lambda x: {"y": x, "more": [x, x]},
        ", output 'more': expected a tensor, got a list of 2 tensors. Declare 'more_0' and 'more_1', or",
    ),
    "dict": (
        lambda x: {"y": x, "more": {"z": x}},
        ", output 'more': expected a tensor, got a dict of 1 tensor. Declare 'more_z', or return each under",
    ),
    "empty": (lambda x: {"y": x, "more": []}, ", output 'more': expected a tensor, got a list of 0 tensors"),
    "None": (
        lambda x: {"y": x, "more": None},
        ", output 'more': expected a tensor, got None. Return a tensor, or don't declare",
    ),
    "nothing": (
        lambda _: None,
        ": its function returns None, but the declared outputs are 'more', 'y'. Return a dict with these names.",
    ),
    "one of two": (
        lambda x: [x],
        ": its function returns a list of 1 tensor, but the declared outputs are 'more', 'y'. ",
    ),
    "other names": (
        lambda x: {"y": x, "others": [x]},
        ": its function returns the outputs 'others_0', 'y', but it declares 'more', 'y'",
    ),
    "a name twice": (
        lambda x: {"y": x, "others": {"y": x}, "others_y": x},
        ": its function returns two tensors with the name 'others_y'. Rename one.",
    ),
    "a number as key": (lambda x: {"y": x, 1: x}, ": its function returns a dict with the key 1; keys must be strings"),
    "dict in a list": (
        lambda x: [x, {"y": x}],
        ": its function returns a list with a dict in it. Return a dict instead.",
    ),
    "ragged": (
        lambda x: {"y": x, "more": tf.RaggedTensor.from_tensor(x)},
        f", output 'more': {DENSE} a RaggedTensor. Convert it with .to_tensor(shape=(None, N)), N values in each row.",
    ),
    "sparse": (
        lambda x: {"y": x, "more": tf.sparse.from_dense(x)},
        f", output 'more': {DENSE} a SparseTensor. Convert it with tf.sparse.to_dense(...).",
    ),
    "array": (
        lambda x: {"y": x, "more": tf.TensorArray(tf.float32, 1).write(0, x)},
        f", output 'more': {DENSE} a TensorArray. Convert it with .stack().",
    ),
    "dataset": (lambda x: {"y": x, "more": tf.data.Dataset.range(3)}, f", output 'more': {DENSE} a _RangeDataset"),
    "object": (lambda x: {"y": x, "more": SimpleNamespace(x=x)}, f", output 'more': {DENSE} a SimpleNamespace"),
    "set": (lambda x: {"y": x, "more": {1}}, f", output 'more': {DENSE} a set"),
    "type": (
        lambda x: {"y": x, "more": tf.cast(x, tf.qint8)},
        ", output 'more' has dtype qint8, which no client supports. Cast it.",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_refused_by_name_and_before_anything_is_written(kind: str) -> None:
    returned, problem = REFUSED[kind]
    module = servable(tf.Module(), of_rows(returned), ("y", "more"))
    told = []
    for call in (
        lambda: savedmodel.trace(module),
        lambda: LiveSignature("serving_default", module.signatures["serving_default"]).run({"rows": ROWS}),
    ):
        with pytest.raises(ServableError) as refused:
            call()
        told.append(str(refused.value))
    assert told[0].startswith(f"signature 'serving_default'{problem}")
    assert told[0] == told[1]


def test_numbers_and_texts_are_tensors_of_their_type() -> None:
    values = {"a": 1, "b": 0.5, "c": "text", "d": [1.0, 2.0], "e": np.ones(2)}
    module = servable(tf.Module(), lambda rows: values, tuple(values))  # noqa: ARG005 - it has no use for them
    functions = savedmodel.trace(module)
    assert savedmodel.described(module, functions)["serving_default"].outputs == {
        "a": TensorSpec("int32", ()),
        "b": TensorSpec("float32", ()),
        "c": TensorSpec("string", ()),
        "d": TensorSpec("float32", (2,)),
        "e": TensorSpec("float64", (2,)),
    }


@pytest.mark.parametrize(
    "error",
    [KeyError("z"), AttributeError("no"), RuntimeError("no"), RecursionError("deep"), SystemExit(3), OSError(5)],
)
def test_whatever_a_function_raises_is_an_error_of_its_signature(error: BaseException) -> None:
    def raising(**_: Any) -> Any:
        raise error

    module = servable(tf.Module(), raising)
    live = LiveSignature("serving_default", module.signatures["serving_default"])
    for call in (lambda: savedmodel.trace(module), lambda: live.run({"rows": ROWS})):
        with pytest.raises(ServableError, match="signature 'serving_default': its function ") as refused:
            call()
        assert type(error).__name__ in str(refused.value)


def test_flattened_outputs_are_served_under_their_names(export_here: Callable[..., Exported]) -> None:
    module = Scale()
    function = tf.function(lambda rows: (rows, {"more": rows * module.factor})[1] | {"states": [rows, None]})
    exported = export_here(lambda: servable(module, function, ("states_0", "more")))
    for request in read_golden(exported.path).requests:
        assert set(request.outputs) == {"states_0", "more"}
        np.testing.assert_array_equal(request.outputs["states_0"], request.inputs["rows"])


def test_a_keras_model_stands_for_its_function() -> None:
    left, right = (keras.Input((3,), name=name) for name in ("left", "right"))
    both = keras.Model({"left": left, "right": right}, keras.layers.Subtract()([left, right]))
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other = ROWS[::-1].copy()
    spec = TensorSpec("float32", (None, 3))
    for model, inputs, wanted in (
        (one, {"rows": ROWS}, one(ROWS)),
        (both, {"right": other, "left": ROWS}, ROWS - other),
    ):
        signature = Signature(model, dict.fromkeys(inputs, spec), ("y",))
        np.testing.assert_array_equal(LiveSignature("live", signature).run(inputs).outputs["y"], wanted)
        (function,) = savedmodel.trace(Servable(model, {"graph": signature}, {"graph": inputs})).values()
        np.testing.assert_array_equal(function({name: tf.constant(rows) for name, rows in inputs.items()})["y"], wanted)
