"""Models from `.keras` files, with layers of one's own and without their code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests.export.conftest import Project
from tests.exporting import typed_in
from tfserving.export.errors import BuilderError
from tfserving.export.keras_file import load_keras

MODULE = """
import keras
import numpy as np

from tfserving.export.keras_file import load_keras
from tfserving.export.servable import Servable, Signature, TensorSpec


{register}
class Double(keras.layers.Layer):
    def call(self, values):
        return 2 * values

    def get_config(self):
        return super().get_config()


def save():
    keras.Sequential([keras.Input((3,)), Double(), keras.layers.Dense(2)]).save("double.keras")


def build():
    model = load_keras("double.keras")
    rows = np.ones((16, 3), np.float32)
    return Servable(
        module=model,
        signatures={{
            "serving_default": Signature(
                lambda rows: {{"doubled": model(rows)}}, {{"rows": TensorSpec("float32", (None, 3))}}, ("doubled",)
            )
        }},
        examples={{"serving_default": {{"rows": rows}}}},
    )
"""


def write(project: Project, register: str) -> None:
    (project.folder / "doubling.py").write_text(MODULE.format(register=register))
    with typed_in(project.folder):
        importlib.import_module("doubling").save()


def test_a_file_becomes_a_version_that_needs_none_of_its_code(project: Project, tmp_path: Path) -> None:
    write(project, '@keras.saving.register_keras_serializable("doubling")')
    done = project.run("build", "doubling:build")
    assert done.returncode == 0, done.stderr
    # The fresh process of the export had no Keras; nor has this one, and no layer's code either.
    ask = (
        "import sys; sys.modules['keras'] = None; import tensorflow as tf;"
        "answer = tf.saved_model.load(sys.argv[1]).signatures['serving_default'](rows=tf.ones((2, 3)))['doubled'];"
        "print(answer.shape, [name for name in sys.modules if 'doubling' in name])"
    )
    version = project.folder / "models/doubling/1"
    asked = subprocess.run(
        [sys.executable, "-I", "-c", ask, str(version)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout == "(2, 2) []\n"


def test_a_layer_that_was_not_registered_says_what_it_needs(project: Project) -> None:
    write(project, "# Not registered: it loads where it was made by luck.")
    (project.folder / "elsewhere.py").write_text(
        "from tfserving.export.keras_file import load_keras\n\ndef build():\n    return load_keras('double.keras')\n"
    )
    done = project.run("build", "elsewhere:build")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "double.keras can't be loaded: " in done.stderr
    assert "could not be deserialized properly" in done.stderr
    needs = "needs get_config() and @keras.saving.register_keras_serializable(), and its module imported before"
    assert f"A layer, activation or loss of one's own {needs} the file is loaded" in done.stderr


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.keras").write_text("no archive")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "right.keras")
    cut = (tmp_path / "right.keras").read_bytes()[:-100]
    (tmp_path / "cut.keras").write_bytes(cut)
    with pytest.raises(BuilderError, match=r"none\.keras: there is no such file"):
        load_keras(tmp_path / "none.keras")
    for name in ("text.keras", "cut.keras"):
        with pytest.raises(
            BuilderError, match=rf"{name} is no \.keras file, as model\.save\('name\.keras'\) writes it"
        ):
            load_keras(tmp_path / name)
    assert load_keras(tmp_path / "right.keras").count_params() == 8


def test_the_sample_has_a_layer_an_activation_and_a_loss_that_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Standardize", "softsign_squared", "Tukey")
    for name in names:
        monkeypatch.delitem(keras.saving.get_custom_objects(), f"samples>{name}", raising=False)
    assert [keras.saving.get_registered_object(f"samples>{name}") for name in names] == [None] * 3
    spec = importlib.util.find_spec("tfserving.export.models.custom")
    assert spec is not None
    assert spec.loader is not None
    # Imported as if for the first time, beside the one that other tests may have.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in names:
        assert keras.saving.get_registered_object(f"samples>{name}") is getattr(module, name)
