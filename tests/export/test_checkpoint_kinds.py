"""Checkpoints as people have them: of compiled models, of the model itself, by name, of Keras 2, of lists, in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.conftest import Project
from tests.export.zoo import ROWS, servable
from tfserving.export.checkpoints import Restored, restore
from tfserving.export.errors import CheckpointError
from tfserving.export.savedmodel import trace
from tfserving.export.servable import Servable

v1 = tf.compat.v1


def network(*more: Any) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation="relu", name="hidden"), layers.Dense(2, name="score"), *more]
    )


class Blocks(keras.Model):  # type: ignore[misc]
    """Layers in a list, of which Keras shows nothing to tf.train.Checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.first = keras.layers.Dense(3)
        self.blocks = [keras.layers.Dense(2)]

    def call(self, rows: Any) -> Any:
        return self.blocks[0](self.first(rows))


def of(model: Any, function: Any = None, **more: Any) -> Servable:
    made = servable(model, function or (lambda rows: {"scaled": model(rows)}))
    return Servable(made.module, made.signatures, made.examples, **more)


def scorer(kernel: Any, bias: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda rows: {"scaled": rows[:, :1] @ kernel[:1] + bias}


def restored(made: Servable, prefix: str, *, partial: bool = False) -> Restored:
    return restore(made, Path(prefix), trace(made), partial=partial)


def refusal(made: Servable, prefix: str, *, partial: bool = False) -> str:
    with pytest.raises(CheckpointError) as refused:
        restored(made, prefix, partial=partial)
    return str(refused.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> keras.Model:
    """A model that was compiled and fitted, and saved in several ways; `folder` is where."""
    keras.utils.set_random_seed(3)
    model = network()
    model.compile(keras.optimizers.Adam(use_ema=True), "mse", metrics=["mae"])
    model.fit(ROWS, ROWS[:, :2], verbose=0)
    model.folder = tmp_path_factory.mktemp("kinds")
    step = tf.Variable(7, dtype=tf.int64)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer, step=step).write(str(model.folder / "compiled"))
    tf.train.Checkpoint(model=model).write(str(model.folder / "only"))
    tf.train.Checkpoint(model).write(str(model.folder / "root"))
    tf.train.Checkpoint(model, step=step).write(str(model.folder / "counted"))
    return model


@pytest.mark.parametrize("name", ["compiled", "root", "counted"])
def test_a_compiled_model_is_restored_without_its_optimizer(trained: keras.Model, name: str) -> None:
    for compiled in (False, True):
        model = network()
        if compiled:
            # Another optimizer, which was never built.
            model.compile("sgd", "mse")
        assert restored(of(model), str(trained.folder / name)) == Restored()
        np.testing.assert_array_equal(model(ROWS), trained(ROWS))


def test_a_layer_that_the_builder_lacks_is_an_error_and_so_is_one_more(trained: keras.Model) -> None:
    short = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")])
    for name in ("compiled", "root"):
        said = refusal(of(short), str(trained.folder / name))
        # The optimizer has the layer's variables, too.
        assert len([line for line in said.splitlines() if "is only in the checkpoint" in line]) == 2
        assert "optimizer" not in said
        assert "With --partial, the other weights are restored" in said
        said = refusal(of(network(keras.layers.Dense(1, name="more"))), str(trained.folder / name))
        assert "model.more.kernel is only in the model" in said
        assert "model.hidden" not in said


def test_a_partial_restore_lists_what_stays_and_what_is_not_used(trained: keras.Model) -> None:
    longer = network(keras.layers.Dense(1, name="more"))
    before = longer.layers[-1].get_weights()
    done = restored(of(longer), str(trained.folder / "compiled"), partial=True)
    assert done.kept == ("model.more.kernel", "model.more.bias")
    assert done.unused == ()
    np.testing.assert_array_equal(longer.layers[0].kernel, trained.layers[0].kernel)
    np.testing.assert_array_equal(longer.layers[-1].kernel, before[0])
    short = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")])
    assert len(restored(of(short), str(trained.folder / "compiled"), partial=True).unused) == 2
    assert "it contains no weight of the model" in refusal(
        of(Stranger()), str(trained.folder / "compiled"), partial=True
    )
    wide = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, name="hidden")])
    said = refusal(of(wide), str(trained.folder / "compiled"), partial=True)
    assert "model.hidden.kernel is float32 (3, 4) in the checkpoint and float32 (3, 5) in the model" in said


class Stranger(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable(2.0)

    def __call__(self, rows: Any) -> Any:
        return rows * self.factor


def test_the_command_lists_what_stays(trained: keras.Model, project: Project) -> None:
    (project.folder / "longer.py").write_text(
        "import keras\nimport zoo\n\n\ndef build():\n"
        "    layers = [keras.layers.Dense(4, activation='relu'), keras.layers.Dense(2), keras.layers.Dense(1)]\n"
        "    model = keras.Sequential([keras.Input((3,)), *layers])\n"
        "    return zoo.servable(model, lambda rows: {'scaled': model(rows)})\n"
    )
    run = ["build", "longer:build", "--from-checkpoint", str(trained.folder / "compiled.index"), "--json"]
    refused = project.run(*run)
    assert refused.returncode == 1
    assert "is only in the model" in refused.stderr
    done = project.run(*run, "--partial")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["models"]
    assert [path.rpartition(".")[2] for path in result["kept"]] == ["kernel", "bias"]
    for path in result["kept"]:
        assert f"longer: {path} is not in the checkpoint and keeps the builder's value" in done.stderr
    assert result["unused"] == []
    assert result["checkpoint"] == "compiled"
    wrong = project.run("build", "longer:build", "--partial")
    assert wrong.returncode == 2
    assert "--partial needs --from-checkpoint" in wrong.stderr


def test_lists_dicts_and_variables_are_parts_of_a_checkpoint(trained: keras.Model, tmp_path: Path) -> None:
    """Averages of weights are kept in lists, for example."""
    kernel, bias = (tf.Variable(variable * 0.5) for variable in trained.layers[-1].get_weights())
    parts = {"list": [kernel, bias], "dict": {"kernel": kernel, "bias": bias}}
    prefix = tf.train.Checkpoint(model=trained, kernel=kernel, **parts).write(str(tmp_path / "ema"))
    shadows: dict[str, Any] = {
        "list": [tf.Variable(kernel * 0), tf.Variable(bias * 0)],
        "dict": {"kernel": tf.Variable(kernel * 0), "bias": tf.Variable(bias * 0)},
    }
    for name, shadow in shadows.items():
        module = tf.Module()
        module.shadow = shadow
        held = [*shadow.values()] if isinstance(shadow, dict) else shadow
        restored(of(module, scorer(*held), checkpoint={name: shadow}), prefix)
        np.testing.assert_array_equal(held[0], kernel)
        np.testing.assert_array_equal(held[1], bias)
    module = tf.Module()
    module.kernel = tf.Variable(kernel * 0)
    restored(of(module, scorer(module.kernel, 0.0), checkpoint={"kernel": module.kernel}), prefix)
    np.testing.assert_array_equal(module.kernel, kernel)


def test_a_part_that_cannot_be_restored_is_named(trained: keras.Model) -> None:
    model = network()
    said = refusal(of(model, checkpoint={"ema": 0.999}), str(trained.folder / "compiled"))
    assert said.startswith("checkpoint['ema']: got 0.999, a float; expected a model, a layer, a tf.Module")
    said = refusal(of(model, checkpoint={"net": model}), str(trained.folder / "compiled"))
    assert "it has no 'net'; it contains 'model', 'optimizer', 'step'" in said


def test_the_name_that_training_gave_the_model_is_in_the_error(trained: keras.Model, tmp_path: Path) -> None:
    prefix = tf.train.Checkpoint(net=trained).save(str(tmp_path / "ckpt"))
    said = refusal(of(network()), prefix)
    assert "it has no 'model'; it contains 'net', 'save_counter'" in said
    assert "If 'net' is the model, write Servable(…, checkpoint={'net': model})." in said


def test_a_checkpoint_without_the_layers_in_lists_says_why(tmp_path: Path) -> None:
    model = Blocks()
    model(ROWS)
    for checkpoint in (tf.train.Checkpoint(model=model), tf.train.Checkpoint(model)):
        said = refusal(of(model), checkpoint.write(str(tmp_path / "ckpt")))
        assert "model.blocks.0.kernel is only in the model" in said
        assert "model.first" not in said
        assert "tf.train.Checkpoint does not find layers in a list or dict of a Keras layer or model" in said
        assert "Save with model.save_weights('name.weights.h5')" in said


def test_the_mean_of_a_normalization_layer_is_the_checkpoints(tmp_path: Path) -> None:
    """It computes with tensors, which it made of its variables before they were restored."""

    def normalizing(rows: Any = None) -> keras.Model:
        layer = keras.layers.Normalization()
        if rows is not None:
            layer.adapt(rows)
        return keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(2)])

    adapted = normalizing(ROWS * 5 + 3)
    prefix = tf.train.Checkpoint(model=adapted).write(str(tmp_path / "ckpt"))
    model = normalizing()
    made = of(model)
    restored(made, prefix)
    np.testing.assert_array_equal(model(ROWS), adapted(ROWS))


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of TensorFlow 1: names only, and what Adam needs."""
    prefix = str(tmp_path_factory.mktemp("names") / "model.ckpt")
    with tf.Graph().as_default(), v1.Session() as session:
        for name, shape in (
            ("hidden/kernel", (3, 4)),
            ("hidden/bias", (4,)),
            ("score/kernel", (4, 2)),
            ("score/bias", (2,)),
        ):
            v1.get_variable(name, initializer=np.full(shape, len(name), np.float32))
        loss = v1.reduce_sum(v1.trainable_variables()[0])
        v1.train.AdamOptimizer().minimize(loss, global_step=v1.train.get_or_create_global_step())
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, prefix)
    return prefix


def test_a_checkpoint_of_names_is_restored_by_name(by_name: str) -> None:
    model = network()
    assert restored(of(model), by_name) == Restored()
    for name, values in (("hidden/kernel", model.layers[0].kernel), ("score/bias", model.layers[1].bias)):
        assert set(np.ravel(values)) == {len(name)}


def test_names_can_be_given(by_name: str) -> None:
    module = tf.Module()
    module.weights = tf.Variable(np.zeros((3, 4), np.float32))
    checkpoint = {"hidden/kernel": module.weights}
    made = of(module, lambda rows: {"scaled": rows @ module.weights}, checkpoint=checkpoint)
    said = refusal(made, by_name)
    assert "score/kernel is only in the checkpoint" in said
    assert "Adam" not in said
    assert restored(made, by_name, partial=True).unused == ("hidden/bias", "score/bias", "score/kernel")
    assert set(np.ravel(module.weights)) == {len("hidden/kernel")}


def test_names_that_are_not_there_are_listed_with_those_that_are(by_name: str) -> None:
    said = refusal(of(network(keras.layers.Dense(1, name="more"))), by_name)
    assert "model.more.kernel is only in the model" in said
    assert "these were expected: model.more.kernel or " in said
    assert " or more/kernel; " in said
    assert (
        "The checkpoint has the names beta1_power, beta2_power, global_step, hidden/bias, hidden/kernel, hidden/ker"
        in said
    )
    assert "checkpoint={'name in the checkpoint': variable, …}" in said


def test_a_checkpoint_of_keras_2_is_restored(tmp_path: Path) -> None:
    """As tf-keras 2.21 writes it: attributes by their own names, the layers of a sequential model by number."""

    def dense(shape: tuple[int, int]) -> tf.Module:
        module = tf.Module()
        module.kernel = tf.Variable(np.full(shape, 3.0, np.float32))
        module.bias = tf.Variable(np.full(shape[1:], 5.0, np.float32))
        return module

    numbered, subclassed = tf.Module(), tf.Module()
    for number, shape in enumerate(((3, 4), (4, 2))):
        setattr(numbered, f"layer_with_weights-{number}", dense(shape))
    subclassed.first, subclassed.blocks = dense((3, 3)), [dense((3, 2))]
    for root, model in ((numbered, network()), (subclassed, Blocks())):
        model(ROWS)
        for checkpoint in (tf.train.Checkpoint(model=root), tf.train.Checkpoint(root)):
            for variable in model.variables:
                variable.assign(variable * 0)
            assert restored(of(model), checkpoint.write(str(tmp_path / "ckpt"))) == Restored()
            assert [set(np.ravel(variable)) for variable in model.variables] == [{3.0}, {5.0}] * 2


def test_averages_that_an_optimizer_keeps_become_the_weights(trained: keras.Model) -> None:
    """As docs/export.md does it."""
    model = network()
    model.compile(keras.optimizers.Adam(use_ema=True))
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model).read(str(trained.folder / "only")).assert_existing_objects_matched()
    averages = [np.array(average) for average in model.optimizer._model_variables_moving_average]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for weights, average in zip(model.get_weights(), averages, strict=True):
        np.testing.assert_array_equal(weights, average)
