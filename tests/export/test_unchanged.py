"""The same model again: it is recognised whatever names its parts get, and nothing else is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.export.conftest import Project, digest, export_to
from tfserving.export.exporter import Exported
from tfserving.export.servable import Servable, Signature

Builder = Callable[[], Servable]


def layers(units: int = 4, activation: str = "relu") -> Builder:
    """A Keras model with a loop in its graph. Keras gives other names to its layers each time."""

    def build() -> Servable:
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(units, activation=activation),
                keras.layers.Reshape((units, 1)),
                keras.layers.LSTM(2),
            ]
        )
        return zoo.servable(model, lambda rows: {"scaled": model(rows, training=False)})

    return build


def texts(words: tuple[str, ...] = ("cat", "dog")) -> Builder:
    """A lookup table, to which TensorFlow gives a random name."""

    def build() -> Servable:
        module = tf.Module()
        numbers = tf.range(len(words), dtype=tf.int64)
        module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(list(words), numbers), -1)
        servable = zoo.texts()
        text = servable.signatures["serving_default"].inputs
        signature = Signature(lambda text: {"number": module.table.lookup(text)}, text, ("number",))
        return Servable(module, {"serving_default": signature}, {"serving_default": servable.examples["loud"]})

    return build


def scaled(value: float = 4.0, **more: Any) -> Builder:
    def build() -> Servable:
        servable = zoo.scale()
        servable.module.factor.assign([2.0, 3.0, value])
        return replace(servable, **more)

    return build


def order(first: str, second: str) -> Builder:
    """Two random operations, one of which is used twice."""

    def build() -> Servable:
        module = zoo.Scale()

        def function(rows: Any) -> Any:
            drawn = {"a": tf.random.uniform([], 1, 1.0 + 1e-30), "b": tf.random.uniform([], 1, 1.0 + 1e-30)}
            return {"scaled": rows * module.factor * drawn[first] * drawn[second]}

        return zoo.servable(module, function)

    return build


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Builder, Builder], Exported]:
    """What a second export with `if_changed` comes to, after a first one of another builder."""
    folders: dict[Builder, Path] = {}

    def run(first: Builder, second: Builder, **more: Any) -> Exported:
        if first not in folders:
            folders[first] = tmp_path_factory.mktemp("model")
            export_to(folders[first], named(first), allow=("random",))
        copy = Path(shutil.copytree(folders[first], tmp_path_factory.mktemp("again") / "model"))
        before = digest(copy)
        done = export_to(copy, named(second), if_changed=True, allow=("random",), **more)
        assert digest(copy / "1") == {name[2:]: sha256 for name, sha256 in before.items()}
        assert {path.name for path in copy.iterdir()} == ({"1"} if done.unchanged else {"1", "2"})
        return done

    return run


def named(builder: Builder) -> Builder:
    """Versions that other builders made differ."""
    builder.__name__ = "build"
    return builder


LAYERS, TEXTS, SCALED, ORDER = layers(), texts(), scaled(), order("a", "b")


@pytest.mark.parametrize("builder", [LAYERS, TEXTS, SCALED, ORDER], ids=["layers", "table", "variable", "random"])
def test_the_same_model_again_is_unchanged(exported: Callable[..., Exported], builder: Builder) -> None:
    done = exported(builder, builder)
    assert done.unchanged
    assert (done.version, done.path.name, done.same_as) == (1, "1", 1)


@pytest.mark.parametrize(
    ("first", "second", "more"),
    [
        (SCALED, scaled(5.0), {}),
        (SCALED, scaled(metrics={"rows": 41}), {}),
        (SCALED, scaled(examples={"serving_default": {"rows": zoo.ROWS[::-1].copy()}}), {}),
        (SCALED, SCALED, {"batch_sizes": (16,)}),
        (SCALED, SCALED, {"options": ("freeze",)}),
        (LAYERS, layers(activation="tanh"), {}),
        (TEXTS, texts(("cat", "cow")), {}),
        (ORDER, order("a", "a"), {}),
    ],
    ids=["weights", "metrics", "examples", "batches", "options", "operation", "table", "random"],
)
def test_what_clients_or_servers_could_see_is_a_change(
    exported: Callable[..., Exported], first: Builder, second: Builder, more: dict[str, Any]
) -> None:
    done = exported(first, second, **more)
    assert (done.version, done.same_as) == (2, None)


def test_the_command_keeps_what_is_unchanged_and_reports_what_is_the_same(project: Project) -> None:
    assert project.run("build", "scale").returncode == 0
    done = project.run("build", "scale", "--if-changed")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "scale: unchanged, version 1 in models/scale/1 is the same\n"
    assert project.names("scale") == {"1"}
    (result,) = json.loads(project.run("build", "scale", "--if-changed", "--json").stdout)["models"]
    assert (result["status"], result["version"], result["same_as"]) == ("unchanged", 1, 1)
    # Without the option there is a new version, and a word of it.
    done = project.run("build", "scale", "--json")
    (result,) = json.loads(done.stdout)["models"]
    assert (result["status"], result["version"], result["same_as"]) == ("exported", 2, 1)
    assert "scale: version 2 differs from version 1 only in its number and origin. --if-changed" in done.stderr


def test_a_damaged_version_is_not_what_stays(project: Project) -> None:
    assert project.run("build", "scale").returncode == 0
    data = next((project.folder / "models/scale/1/variables").glob("*.data*"))
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    done = project.run("build", "scale", "--if-changed")
    assert done.stdout.startswith("scale: version 2 in models/scale/2, ")
    assert re.search(
        r"scale: version 1 is the same but damaged, so it is not kept: .*/scale/1 was changed since its export:",
        done.stderr,
    )
