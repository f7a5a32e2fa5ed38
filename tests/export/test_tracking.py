"""What a model tracks: in attributes, and in the lists, dicts and sets that Keras and TensorFlow models have."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.export.conftest import export_to
from tests.export.zoo import ROWS, servable
from tfserving.export.errors import LintError, ServableError
from tfserving.export.servable import Servable
from tfserving.export.tracking import not_checkpointed, trackables, variables_of

Dense = keras.layers.Dense
Pair = namedtuple("Pair", ("left", "right"))


class Blocks(keras.Model):  # type: ignore[misc]
    """Layers in every kind of collection, two of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Dense(3), [Dense(3), (Dense(3),)]]
        self.heads = {"score": Dense(1), "a/b": Dense(1), 3: Dense(1), ("x", 1): Dense(1)}
        self.ordered = OrderedDict(last=Dense(3))
        self.pair = Pair(Dense(3), self.blocks[0])
        self.loose = {Dense(3)}
        self.inner = keras.Sequential([keras.Input((3,)), Dense(3, name="only")])
        self.models = {"inner": self.inner, "other": [keras.Sequential([keras.Input((3,)), Dense(3, name="far")])]}

    def call(self, rows: Any) -> Any:
        layers = [self.blocks[0], self.blocks[1][0], self.blocks[1][1][0], self.ordered["last"], *self.pair]
        for layer in (*layers, *self.loose, self.inner, self.models["other"][0]):
            rows = layer(rows)
        return sum(head(rows) for head in self.heads.values())


class Own(keras.layers.Layer):  # type: ignore[misc]
    """Weights, a table and a `tf.Module` in collections of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [tf.Module()]
        self.parts[0].scale = tf.Variable(3.0)
        self.tables = {"words": tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0], [1.0]), 2.0)}

    def build(self, shape: Any) -> None:
        self.pieces = [self.add_weight(shape=(shape[-1],), name=f"piece{number}") for number in range(2)]

    def call(self, rows: Any) -> Any:
        found = self.tables["words"].lookup(tf.cast(rows[:, :1], tf.int32))
        return rows * self.pieces[0] + self.pieces[1] * self.parts[0].scale + found


def blocks(trained: bool = False) -> Servable:
    model = Blocks()
    if trained:
        model.compile("adam", "mse")
        model.fit(ROWS, ROWS[:, :1], verbose=0)
    model(ROWS)
    return servable(model, lambda rows: {"scaled": model(rows)})


def own() -> Servable:
    model = keras.Sequential([keras.Input((3,)), Own()])
    return servable(model, lambda rows: {"scaled": model(rows)})


def cells() -> Servable:
    layers = keras.layers
    stacked = layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)]), name="stacked")
    model = keras.Sequential([keras.Input((3, 1)), stacked])
    return servable(model, lambda rows: {"scaled": model(rows[:, :, None])})


def held() -> Servable:
    """A `tf.Module` with a Keras model in a list, variables under keys of every kind, and the same one twice."""
    module, model = tf.Module(), keras.Sequential([keras.Input((3,)), Dense(1, name="first")])
    module.models = [model]
    module.weights = {"a/b": tf.Variable(1.0), 1: tf.Variable(2.0), "1": tf.Variable(3.0), ("x", 1): tf.Variable(4.0)}
    module.again = module.weights["a/b"]
    return servable(module, lambda rows: {"scaled": model(rows) * sum(module.weights.values()) + module.again})


def several() -> Servable:
    """No module, but the two models that are served together."""
    one, two = (keras.Sequential([keras.Input((3,)), Dense(1, name="out")]) for _ in range(2))
    return servable({"one": one, "two": [two]}, lambda rows: {"scaled": one(rows) - two(rows)})


def layer(path: str) -> set[str]:
    return {f"{path}.kernel", f"{path}.bias"}


HELD = {
    blocks: {
        *layer("blocks.0"),
        *layer("blocks.1.0"),
        *layer("blocks.1.1.0"),
        *layer("heads.score"),
        *layer("heads.a/b"),
        *layer("heads.3"),
        *layer("heads.('x', 1)"),
        *layer("ordered.last"),
        *layer("pair.left"),
        *layer("loose.0"),
        *layer("inner.only"),
        *layer("models.other.0.far"),
    },
    own: {"own.pieces.0", "own.pieces.1", "own.parts.0.scale"},
    cells: {
        f"stacked.cell.cells.{number}.{name}" for number in (0, 1) for name in ("kernel", "recurrent_kernel", "bias")
    },
    held: {*layer("models.0.first"), "again", "weights.1", "weights.1_", "weights.('x', 1)"},
    several: {*layer("one.out"), *layer("two.0.out")},
}


@pytest.mark.parametrize("builder", HELD, ids=lambda builder: builder.__name__)
def test_what_is_in_collections_is_exported_under_the_models_own_names(
    builder: Callable[[], Servable], tmp_path: Path
) -> None:
    keras.backend.clear_session()
    exported = export_to(tmp_path / "model", builder)
    assert exported.proof.requests == 5
    restored = tf.saved_model.load(str(exported.path)).used
    named = {path for path, one in restored.items() if hasattr(one, "handle")}
    # Names that Keras numbers are this process's.
    assert {name.replace("own_1", "own") for name in named} == HELD[builder]


def test_what_only_the_training_uses_comes_last_and_the_models_own_is_not_called_by_it() -> None:
    found = list(variables_of(blocks(trained=True).module))
    trained = [path for path in found if path.startswith(("optimizer.", "_loss_tracker."))]
    assert len(trained) > 20
    assert found[-len(trained) :] == trained
    assert "optimizer._momentums.0" in trained


def test_a_layer_under_two_paths_has_the_shortest_one() -> None:
    assert trackables(several().module).keys() >= {"one.out", "two.0.out"}
    model = Blocks()
    found = trackables(model)
    assert [path for path, one in found.items() if one is model.inner] == ["inner"]
    assert [path for path, one in found.items() if one is model.blocks[0]] == ["blocks.0"]


def test_a_table_is_found_by_its_key() -> None:
    assert any(path.endswith("own.tables.words") for path in trackables(own().module))


def test_what_a_checkpoint_would_miss_is_listed() -> None:
    assert not_checkpointed(servable_of_attributes().module) == {}
    missing = set(not_checkpointed(blocks().module))
    assert missing == HELD[blocks] - {*layer("inner.only"), *layer("pair.left"), *layer("blocks.0")}
    with pytest.raises(ServableError, match=r"tf\.train\.Checkpoint can't write a Module: Unable to save the object"):
        not_checkpointed(held().module)


def servable_of_attributes() -> Servable:
    model = keras.Sequential([keras.Input((3,)), Dense(3), keras.layers.Dropout(0.5), Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(ROWS, ROWS[:, :1], verbose=0)
    return servable(model, lambda rows: {"scaled": model(rows)})


@pytest.mark.parametrize("module", [None, 3, pickle, lambda rows: rows], ids=["None", "int", "module", "function"])
def test_what_is_no_module_is_refused(module: Any) -> None:
    with pytest.raises(ServableError, match=r"expected a Keras model or a tf\.Module, or a list or dict of them"):
        trackables(module)


def table() -> Servable:
    words = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0], [1.0]), 2.0)
    return servable(tf.Module(), lambda rows: {"scaled": words.lookup(tf.cast(rows, tf.int32))})


def closure() -> Servable:
    hidden = tf.Variable(2.0, name="hidden")
    function = tf.function(lambda rows: {"scaled": rows * hidden})
    return servable(keras.Sequential([keras.Input((3,)), Dense(3)]), function)


@pytest.mark.parametrize(
    ("builder", "used"),
    [(table, "a table, which Module does"), (closure, "the variables hidden:0, which Sequential does")],
    ids=["table", "variable"],
)
def test_what_only_a_closure_holds_is_refused(builder: Callable[[], Servable], used: str, tmp_path: Path) -> None:
    with pytest.raises(LintError) as refused:
        export_to(tmp_path / "model", builder)
    assert f"[untracked-variable] signature 'serving_default' uses {used} not track. Make them attributes" in str(
        refused.value
    )
    assert not list(tmp_path.iterdir())
