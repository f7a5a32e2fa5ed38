"""Restores that a builder does itself: those whose values never reach what is served are refused, others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.conftest import Project
from tests.export.zoo import ROWS, Scale, Stack, servable
from tfserving.export import restores
from tfserving.export.errors import CheckpointError
from tfserving.export.savedmodel import trace
from tfserving.export.servable import Servable


class Blocks(keras.Model):  # type: ignore[misc]
    """Layers in a list, of which Keras shows nothing to tf.train.Checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [keras.layers.Dense(2)]
        self.last = keras.layers.Dense(2)

    def call(self, rows: Any) -> Any:
        return self.last(self.blocks[0](rows))


class Late(tf.Module):  # type: ignore[misc]
    """Makes its variable when it is called first."""

    factor: tf.Variable | None = None

    def __call__(self, rows: Any) -> Any:
        self.factor = self.factor if self.factor is not None else tf.Variable([1.0, 1.0, 1.0])
        return rows * self.factor


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[type, str]:
    """The checkpoints of a model of each class, with an optimizer, as training writes them."""
    keras.utils.set_random_seed(8)
    folder = tmp_path_factory.mktemp("saved")
    prefixes: dict[type, str] = {}
    for kind in (Stack, Blocks, Late, Scale):
        model = kind()
        if kind is not Scale:
            model(ROWS)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=keras.optimizers.Adam())
        prefixes[kind] = checkpoint.write(str(folder / kind.__name__))
    return prefixes


def of(model: Any, layer: Any = None) -> Servable:
    return servable(model, lambda rows: {"scaled": (layer or model)(rows)})


def check(build: Callable[[], Servable]) -> None:
    """What an export does with the restores of a builder."""
    with restores.watch() as noted:
        made = build()
    restores.check(noted, made.module, trace(made, allow=("random",)))


def refusal(build: Callable[[], Servable]) -> str:
    with pytest.raises(CheckpointError) as refused:
        check(build)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def checkpoint_of(model: Any) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizer=keras.optimizers.Adam())


@pytest.mark.parametrize(
    "restored",
    [
        lambda model, path: checkpoint_of(model).restore(path),
        lambda model, path: checkpoint_of(model).read(path).expect_partial(),
        lambda model, path: tf.compat.v1.train.Checkpoint(model=model).restore(path),
        lambda model, path: tf.train.CheckpointManager(
            checkpoint_of(model), Path(path).parent, 1
        ).restore_or_initialize(),
    ],
    ids=["restore", "read", "v1", "manager"],
)
def test_a_restore_before_the_model_is_built_is_refused(restored: Callable[[Any, str], Any], tmp_path: Path) -> None:
    model = Stack()
    model(ROWS)
    prefix = checkpoint_of(model).save(str(tmp_path / "ckpt"))

    def build() -> Servable:
        early = Stack()
        restored(early, prefix)
        early(ROWS)
        # Why it is refused: TensorFlow says nothing, and the weights are new.
        assert not np.array_equal(early.first.kernel, model.first.kernel)
        return of(early)

    said = refusal(build)
    assert f"the builder restored {prefix}, but its values did not reach model.first.kernel" in said
    assert "Build the model before restore(), for example by calling it on example rows: model(examples)" in said
    assert "use --from-checkpoint" in said


def test_what_was_trained_after_such_a_restore_is_refused_too(saved: dict[type, str]) -> None:
    def build() -> Servable:
        model = Stack()
        checkpoint_of(model).restore(saved[Stack])
        model.compile("sgd", "mse")
        model.fit(ROWS, ROWS[:, :2], verbose=0)
        return of(model)

    assert "its values did not reach model.first.kernel" in refusal(build)


def test_a_strategy_hides_no_restore(saved: dict[type, str]) -> None:
    assert "its values did not reach model.first." in refusal(lambda: _in_the_scope_of_a_strategy(saved, early=True))


def built(kind: type) -> Any:
    model = kind()
    if kind is not Scale:
        model(ROWS)
    return model


def _trained_further(saved: dict[type, str]) -> Servable:
    model = built(Stack)
    checkpoint_of(model).restore(saved[Stack])
    model.compile("sgd", "mse")
    model.fit(ROWS, ROWS[:, :2], verbose=0)
    return of(model)


def _restored_again(saved: dict[type, str]) -> Servable:
    model = Stack()
    checkpoint_of(model).restore(saved[Stack])
    model(ROWS)
    checkpoint_of(model).restore(saved[Stack])
    return of(model)


def _made_later_by_tensorflow(saved: dict[type, str]) -> Servable:
    model = Late()
    checkpoint_of(model).restore(saved[Late])
    model(ROWS)
    return of(model)


def _not_served(saved: dict[type, str]) -> Servable:
    other = Stack()
    checkpoint_of(other).restore(saved[Stack])
    other(ROWS)
    return of(Scale(), lambda rows: rows)


def _a_new_head_that_is_meant(saved: dict[type, str]) -> Servable:
    model = built(Stack)
    tf.train.Checkpoint(model=model, head=keras.layers.Dense(1)).restore(saved[Stack]).expect_partial()
    whole = keras.Sequential([model, keras.layers.Dense(1)])
    whole(ROWS)
    return of(whole)


def _a_new_head_that_is_trained(saved: dict[type, str]) -> Servable:
    model = built(Blocks)
    checkpoint_of(model).restore(saved[Blocks])
    model.compile("sgd", "mse")
    model.fit(ROWS, ROWS[:, :2], verbose=0)
    return of(model)


def _weights_from_elsewhere(saved: dict[type, str]) -> Servable:
    model = built(Blocks)
    checkpoint_of(model).restore(saved[Blocks])
    model.set_weights([weights + 1 for weights in model.get_weights()])
    return of(model)


def _in_the_scope_of_a_strategy(saved: dict[type, str], early: bool = False) -> Servable:
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = Stack() if early else built(Stack)
        checkpoint_of(model).restore(saved[Stack])
        model(ROWS)
    return of(model)


def _dropout_that_stays_on(saved: dict[type, str]) -> Servable:
    """The state of its random numbers is in no checkpoint."""
    model = built(Stack)
    checkpoint_of(model).restore(saved[Stack])
    whole = keras.Sequential([keras.Input((3,)), model, keras.layers.Dropout(0.5)])
    tf.train.Checkpoint(model=model, whole=whole).restore(saved[Stack])
    return servable(whole, lambda rows: {"scaled": whole(rows, training=True)})


def _resumed_or_begun(saved: dict[type, str]) -> Servable:
    model = Stack()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), f"{saved[Stack]}/nowhere", 1)
    tf.train.Checkpoint(model=model).restore(manager.latest_checkpoint)
    manager.restore_or_initialize()
    model.compile("sgd", "mse")
    model.fit(ROWS, ROWS[:, :2], verbose=0)
    return of(model)


@pytest.mark.parametrize(
    "build",
    [
        _trained_further,
        _restored_again,
        _made_later_by_tensorflow,
        _not_served,
        _a_new_head_that_is_meant,
        _a_new_head_that_is_trained,
        _weights_from_elsewhere,
        _in_the_scope_of_a_strategy,
        _dropout_that_stays_on,
        _resumed_or_begun,
    ],
)
def test_restores_that_are_right_pass(saved: dict[type, str], build: Callable[[dict[type, str]], Servable]) -> None:
    check(lambda: build(saved))


def test_weights_that_the_checkpoint_does_not_have_are_refused_unless_they_are_meant(saved: dict[type, str]) -> None:
    class Renamed(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.head = self.second
            del self.second

        def call(self, rows: Any) -> Any:
            return self.head(self.first(rows))

    def build(meant: bool) -> Servable:
        model = built(Renamed)
        status = checkpoint_of(model).restore(saved[Stack])
        if meant:
            status.expect_partial()
        return of(model)

    said = refusal(lambda: build(False))
    assert (
        "which has no value for model.head.kernel, model.head.bias, so they have the initial values of a new model"
        in said
    )
    assert "restore(…).expect_partial()" in said
    check(lambda: build(True))


def test_layers_in_lists_that_no_checkpoint_has_are_refused_always(saved: dict[type, str]) -> None:
    def build(early: bool) -> Servable:
        model = Blocks() if early else built(Blocks)
        if early:
            model.last.build((None, 2))
        checkpoint_of(model).restore(saved[Blocks]).expect_partial()
        model(ROWS)
        return of(model)

    for early in (False, True):
        said = refusal(lambda early=early: build(early))  # type: ignore[misc]
        assert (
            "which has no value for model.blocks.0.kernel, model.blocks.0.bias. tf.train.Checkpoint does not find"
            in said
        )
        assert "Save with model.save_weights('name.weights.h5')" in said


def test_a_restore_of_nothing_is_refused(tmp_path: Path) -> None:
    def build(early: bool, managed: bool) -> Servable:
        model = Stack() if early else built(Stack)
        checkpoint = checkpoint_of(model)
        manager = tf.train.CheckpointManager(checkpoint, str(tmp_path / "empty"), max_to_keep=3)
        if managed:
            manager.restore_or_initialize()
        else:
            checkpoint.restore(manager.latest_checkpoint)
        model(ROWS)
        return of(model)

    for early in (False, True):
        for managed in (False, True):
            said = refusal(lambda early=early, managed=managed: build(early, managed))  # type: ignore[misc]
            assert "the builder called restore(None), which restores nothing, so model.first.kernel, " in said
            assert "Correct the checkpoint folder, or call restore() only when there is a checkpoint." in said


def test_a_mean_that_was_made_before_the_restore_is_refused(tmp_path: Path) -> None:
    def normalizing() -> keras.Model:
        return keras.Sequential([keras.Input((3,)), keras.layers.Normalization(), keras.layers.Dense(2)])

    adapted = normalizing()
    adapted.layers[0].adapt(ROWS * 5)
    prefix = tf.train.Checkpoint(model=adapted).write(str(tmp_path / "ckpt"))

    def build(finalize: bool) -> Servable:
        model = normalizing()
        tf.train.Checkpoint(model=model).restore(prefix)
        if finalize:
            model.layers[0].finalize_state()
        return of(model)

    assert "Call its finalize_state() after restore()" in refusal(lambda: build(False))
    check(lambda: build(True))


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    prefix = str(tmp_path / "model.ckpt")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("factor", initializer=np.ones(3, np.float32))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, prefix)

    def build(name: str) -> Servable:
        module = tf.Module()
        module.weights = tf.Variable([2.0, 3.0, 4.0], name=name)
        tf.train.Checkpoint(module=module).restore(prefix)
        return servable(module, lambda rows: {"scaled": rows * module.weights})

    check(lambda: build("factor"))
    assert "which has no value for module.weights" in refusal(lambda: build("weights"))


def test_the_command_refuses_it_and_writes_nothing(saved: dict[type, str], project: Project) -> None:
    """In the builder, and when its module is imported."""
    source = (
        "import tensorflow as tf\nimport zoo\n\n\ndef made():\n    model = zoo.Stack()\n"
        f"    tf.train.Checkpoint(model=model).restore({saved[Stack]!r})\n    model(zoo.ROWS)\n"
        "    return zoo.servable(model, lambda rows: {'scaled': model(rows)})\n"
    )
    (project.folder / "early.py").write_text(source)
    (project.folder / "imported.py").write_text(f"{source}\n\nMADE = made()\n\n\ndef build():\n    return MADE\n")
    done = project.run("build", "early:made", "imported:build")
    assert done.returncode == 1
    for name in ("early", "imported"):
        assert f"Error: {name} was not exported: the builder restored {saved[Stack]}, but its values" in done.stderr
        assert not project.names(name)
    read = tf.train.Checkpoint.read
    assert not hasattr(read, "__wrapped__"), "TensorFlow's own is back"
    # Restored late, the same checkpoint is right.
    done = project.run("build", "early:made", "--from-checkpoint", saved[Stack])
    assert done.returncode == 0, done.stderr
