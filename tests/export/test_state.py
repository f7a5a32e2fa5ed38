"""Signatures that change something or draw random numbers: what is found, how it is named, and what works instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export import savedmodel
from tfserving.export.errors import LintError, ServableError
from tfserving.export.exporter import Exported
from tfserving.export.lint import lint_version
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.golden import read_golden

Export = Callable[..., Exported]
WORDS = np.array(["a", "b", "ü", "d"] * 4, np.object_)


def stateful_lstm(batch: int | None) -> Servable:
    model = keras.Sequential(
        [keras.Input(batch_shape=(1, 3, 1)), keras.layers.LSTM(2, stateful=True, name="memory"), keras.layers.Dense(1)]
    )
    return Servable(
        model,
        {"serving_default": Signature(lambda x: {"y": model(x)}, {"x": TensorSpec("float32", (batch, 3, 1))}, ("y",))},
        {"serving_default": {"x": zoo.ROWS[..., np.newaxis]}},
    )


def dropout() -> Servable:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    return zoo.servable(model, lambda rows: {"scaled": model(rows, training=True)})


def normalized_by_the_batch() -> Servable:
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    return zoo.servable(model, lambda rows: {"scaled": model(rows, training=True)})


def counted() -> Servable:
    """In a branch, in a function of its own, with nothing that depends on it."""
    module = zoo.Scale()
    module.count = tf.Variable(0)

    @tf.function  # type: ignore[untyped-decorator]
    def count(rows: Any) -> None:
        if tf.shape(rows)[0] > 1:
            module.count.assign_add(1)

    def scaled(rows: Any) -> Any:
        count(rows)
        return {"scaled": rows * module.factor}

    return zoo.servable(module, scaled)


def sampled() -> Servable:
    return zoo.servable(tf.Module(), lambda rows: {"scaled": tf.random.categorical(rows, 1)})


def generated() -> Servable:
    module = zoo.Scale()
    module.generator = tf.random.Generator.from_seed(1)
    return zoo.servable(module, lambda rows: {"scaled": rows + module.generator.normal(tf.shape(rows))})


def timed() -> Servable:
    return zoo.servable(zoo.Scale(), lambda rows: {"scaled": rows + tf.cast(tf.timestamp(), tf.float32)})


def with_table(table: Callable[..., Any], *, insert: bool) -> Servable:
    module = tf.Module()
    module.table = table
    module.table.insert(["a", "ü"], [3, 4])

    def number(word: Any) -> dict[str, Any]:
        if insert:
            module.table.insert(word, tf.ones_like(word, tf.int64))
        return {"number": module.table.lookup(word)}

    return Servable(
        module,
        {"serving_default": Signature(number, {"word": TensorSpec("string", (None,))}, ("number",))},
        {"serving_default": {"word": WORDS}},
    )


def mutable() -> Any:
    return tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)


def dense() -> Any:
    return tf.lookup.experimental.DenseHashTable(tf.string, tf.int64, -1, "", "\xff")


@pytest.mark.parametrize(
    ("builder", "rule", "named"),
    [
        (lambda: stateful_lstm(1), "state", "a request changes sequential/memory/rnn_state (AssignVariableOp), and so"),
        (normalized_by_the_batch, "state", "norm/moving_mean (AssignVariableOp), "),
        (counted, "state", "a request changes count (AssignAddVariableOp), and so the responses"),
        (lambda: with_table(mutable(), insert=True), "state", "a request changes table (LookupTableInsertV2), and so"),
        (dropout, "random", "it draws random numbers: seed_generator/seed_generator_state (AssignVariableOp). "),
        (sampled, "random", "it draws random numbers: Multinomial (categorical/Multinomial). "),
        (generated, "random", "it draws random numbers: StateVar (RngReadAndSkip). "),
        (timed, "random", "it reads the clock: Timestamp (Timestamp). "),
    ],
    ids=["stateful", "batch norm", "branch", "table", "dropout", "categorical", "generator", "clock"],
)
def test_what_changes_or_is_random_is_named_before_anything_is_written(
    builder: Callable[[], Servable], rule: str, named: str
) -> None:
    # Names of layers are numbered.
    keras.backend.clear_session()
    with pytest.raises(LintError) as refused:
        savedmodel.trace(builder())
    assert str(refused.value).startswith(f"[{rule}] signature 'serving_default': ")
    assert named in str(refused.value)
    works = {"state": "Take the state as an input and return it as an output", "random": "take a seed as an input"}
    assert works[rule] in str(refused.value)


def test_a_stateful_layer_is_named_where_keras_fails_for_another_batch() -> None:
    with pytest.raises(ServableError) as refused:
        savedmodel.trace(stateful_lstm(None))
    assert "memory has stateful=True: it keeps the state of one batch of fixed size" in str(refused.value)
    assert "make the state an input and an output (docs/lint.md#state)" in str(refused.value)


def test_in_a_savedmodel_that_something_else_wrote_they_are_found_too(tmp_path: Path) -> None:
    module = tf.Module()
    module.total = tf.Variable(0.0, name="total")

    @tf.function  # type: ignore[untyped-decorator]
    def drawn(rows: Any) -> Any:
        return rows + tf.random.normal((), seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, name="rows")])  # type: ignore[untyped-decorator]
    def summed(rows: Any) -> dict[str, Any]:
        module.total.assign_add(tf.reduce_sum(rows))
        return {"drawn": drawn(rows), "total": tf.fill(tf.shape(rows), module.total)}

    tf.saved_model.save(module, str(tmp_path / "other"), {"serving_default": summed})
    found = {finding.rule: str(finding) for finding in lint_version(tmp_path / "other")}
    assert found.keys() == {"state", "random"}
    assert "a request changes total (AssignAddVariableOp), " in found["state"]
    assert "it draws random numbers: RandomStandardNormal (random_normal/RandomStandardNormal). " in found["random"]


@pytest.mark.parametrize(("rule", "builder"), [("state", lambda: stateful_lstm(1)), ("random", generated)])
def test_allowing_it_does_not_prove_it(export_here: Export, rule: str, builder: Callable[[], Servable]) -> None:
    builder.__name__ = "changing"
    with pytest.raises(ServableError, match="the same request gets another output the second time"):
        export_here(builder, allow=(rule, "fixed-batch"))


@pytest.mark.parametrize("table", [mutable, dense])
def test_a_mutable_table_is_exported_with_what_is_in_it(export_here: Export, table: Callable[..., Any]) -> None:
    def lookup() -> Servable:
        return with_table(table(), insert=False)

    exported = export_here(lookup)
    assert exported.proof.identical
    assert read_golden(exported.path).requests[2].outputs["number"].tolist() == [-1, 3, -1, 4, -1, 3, -1]
    assert lint_version(exported.path) == []
