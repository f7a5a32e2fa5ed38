"""Models that were never called, restored too early or returned bare: the error says in one line what to write."""

from __future__ import annotations

import pytest

from tests.export.conftest import Project

MODULE = """
import tensorflow as tf

from tfserving.export.servable import Servable, Signature, TensorSpec

examples = tf.random.stateless_normal((32, 32), seed=(1, 2)).numpy()


class MyModel(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.dense1 = tf.keras.layers.Dense(64, activation="relu")
        self.dense2 = tf.keras.layers.Dense(10)

    def call(self, inputs):
        return self.dense2(self.dense1(inputs))


class MyCustomLayer(tf.keras.layers.Layer):
    def __init__(self, some_parameter, **kwargs):
        super().__init__(**kwargs)
        self.some_parameter = some_parameter

    def call(self, inputs):
        return inputs + self.some_parameter

    def get_config(self):
        return {**super().get_config(), "some_parameter": self.some_parameter}


def sequence():
    return tf.keras.Sequential(
        [tf.keras.layers.Dense(64, activation="relu"), MyCustomLayer(5), tf.keras.layers.Dense(10)]
    )


def servable(model):
    signature = Signature(lambda x: {"logits": model(x)}, {"x": TensorSpec("float32", (None, 32))}, ("logits",))
    return Servable(model, {"serving_default": signature}, {"serving_default": {"x": examples}})


def subclassed():
    return servable(MyModel())


def sequential():
    return servable(sequence())


def bare():
    return MyModel()


def restored():
    trained = MyModel()
    trained(examples)
    checkpoint = tf.train.Checkpoint(model=trained, optimizer=tf.keras.optimizers.Adam())
    manager = tf.train.CheckpointManager(checkpoint, "./tf_ckpts", max_to_keep=3)
    manager.save()
    model = MyModel()
    checkpoint = tf.train.Checkpoint(model=model, optimizer=tf.keras.optimizers.Adam())
    checkpoint.restore(tf.train.CheckpointManager(checkpoint, "./tf_ckpts", max_to_keep=3).latest_checkpoint)
    return servable(model)


def called():
    model = sequence()
    model(examples)
    return servable(model)
"""
CALL = "In the builder, call it on example rows, model(examples), and then load or train its weights"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the command prints about all of them."""
    project = Project(tmp_path_factory.mktemp("unbuilt"))
    (project.folder / "unbuilt.py").write_text(MODULE)
    names = ("subclassed", "sequential", "bare", "restored", "called")
    done = project.run("build", *(f"{name}=unbuilt:{name}" for name in names))
    assert done.returncode == 1
    assert [name for name in names if project.names(name)] == ["called"]
    return [line for line in done.stderr.splitlines() if not line.startswith("   ")]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("subclassed", ["MyModel was not built: its variables dense1.kernel, dense1.bias, dense2.kernel", CALL]),
        ("sequential", ["Sequential was not built: its variables ", CALL]),
        ("bare", ["returned a MyModel, expected a tfserving.export.servable.Servable. Return Servable(model, {"]),
        ("restored", ["MyModel was not built: its variables dense1.kernel", CALL]),
    ],
)
def test_it_is_refused_with_what_to_write(lines: list[str], name: str, parts: list[str]) -> None:
    (line,) = (line for line in lines if line.startswith(f"Error: {name} was not exported: "))
    for part in parts:
        assert part in line
