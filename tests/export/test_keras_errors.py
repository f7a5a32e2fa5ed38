"""Errors of Keras in a builder that loads files without `load_keras`: the same reason, the same hint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.export.zoo import Scale
from tfserving.export.builders import run_builder
from tfserving.export.errors import BuilderError


class Doubles(keras.layers.Layer):  # type: ignore[misc]
    """Not registered."""

    def call(self, rows: Any) -> Any:
        return 2 * rows


def network(units: int = 2) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    keras.Sequential([keras.Input((3,)), Doubles()]).save(folder / "doubles.keras")
    network().save_weights(folder / "network.weights.h5")
    tf.train.Checkpoint(network()).write(str(folder / "ckpt"))
    tf.saved_model.save(Scale(), str(folder / "saved"))
    return folder


@pytest.mark.parametrize(
    ("load", "reason", "hint"),
    [
        (
            lambda folder: keras.models.load_model(folder / "doubles.keras"),
            "TypeError: Could not locate class 'Doubles'.",
            "decorate Doubles with @keras.saving.register_keras_serializable() and import its module",
        ),
        (
            lambda folder: network(units=5).load_weights(folder / "network.weights.h5"),
            "must match. variable.shape=(3, 5), Received: value.shape=(3, 2)",
            "the model's layers differ from those in the file",
        ),
        (
            lambda folder: network().load_weights(folder / "ckpt"),
            "ValueError: File format not supported: ",
            "restore a checkpoint of TensorFlow with the option --from-checkpoint, not in the builder",
        ),
        (
            lambda folder: keras.models.load_model(folder / "saved"),
            "ValueError: File format not supported: ",
            "use `saved_model:` in models.yaml to serve a SavedModel as it is, load_existing(path) to call",
        ),
    ],
    ids=["not registered", "other shape", "checkpoint", "SavedModel"],
)
def test_a_builder_that_calls_keras_itself_gets_the_same_hints(
    folder: Path, load: Callable[[Path], Any], reason: str, hint: str
) -> None:
    with pytest.raises(BuilderError) as refused:
        run_builder("mine:build", lambda: load(folder))
    first, second, *_ = str(refused.value).splitlines()
    assert reason in first
    assert hint in second
    assert len(first) < 450


def test_another_error_stays_as_it_is() -> None:
    def build() -> Any:
        raise ValueError("no data in /data/train.csv\nnor in /data/test.csv")

    with pytest.raises(BuilderError) as refused:
        run_builder("mine:build", build)
    assert "ValueError: no data in /data/train.csv\n  nor in /data/test.csv\n  at " in str(refused.value)
