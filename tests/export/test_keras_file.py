"""Models from `.keras` files, with layers of one's own and without their code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def test_a_builders_file_that_cannot_be_loaded_ends_in_keras_own_words_and_what_to_change(project: Project) -> None:
    write(project, "# Not registered: it loads where it was made by luck.")
    (project.folder / "elsewhere.py").write_text(
        "from tfserving.export.keras_file import load_keras\n\ndef build():\n    return load_keras('double.keras')\n"
    )
    done = project.run("build", "elsewhere:build")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "double.keras can't be loaded: Could not locate class 'Double'." in done.stderr
    assert (
        "decorate Double with @keras.saving.register_keras_serializable() and import its module before" in done.stderr
    )


REGISTER = "@keras.saving.register_keras_serializable('files')"
NO_KWARGS = f"""
{REGISTER}
class Mine(keras.layers.Layer):
    def __init__(self, factor=2):
        super().__init__()
        self.factor = factor

    def call(self, rows):
        return rows * self.factor

    def get_config(self):
        return {{**super().get_config(), "factor": self.factor}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Callable[[str, Any], Path]]:
    """Saves a model with the layer `Mine` that the source makes, and forgets the class."""

    def save(source: str, name: str = "mine.keras") -> Path:
        namespace: dict[str, Any] = {"keras": keras, "__name__": "mine"}
        exec(source, namespace)  # noqa: S102 - a class that only this file knows
        layers = [keras.Input((3,)), namespace["Mine"](), keras.layers.Dense(2)]
        keras.Sequential(layers).save(tmp_path / name)
        return tmp_path / name

    yield save
    keras.saving.get_custom_objects().pop("files>Mine", None)


PROPER = NO_KWARGS.replace("factor=2)", "factor=2, **kwargs)").replace("__init__()", "__init__(**kwargs)")


@pytest.mark.parametrize(
    ("source", "now", "reason", "hint"),
    [
        (
            NO_KWARGS,
            NO_KWARGS,
            "Mine.__init__() got an unexpected keyword argument 'name'",
            "Mine.__init__ must take **kwargs and pass them to super().__init__(**kwargs)",
        ),
        (
            PROPER,
            PROPER.replace("factor", "scale"),
            "Unrecognized keyword arguments passed to Mine: {'factor': 2}",
            "get_config of Mine returns arguments that its __init__ does not accept: {'factor': 2}",
        ),
        (
            PROPER,
            NO_KWARGS.replace("factor=2", "name, trainable, dtype"),
            "Mine.__init__() got an unexpected keyword argument 'factor'",
            "get_config of Mine returns 'factor', which its __init__ does not accept",
        ),
        (
            PROPER,
            PROPER.replace("factor=2", "factor, units"),
            "Mine.__init__() missing 1 required positional argument: 'units'",
            "get_config of Mine must also return 'units'",
        ),
        (
            PROPER,
            "",
            "Could not locate class 'Mine'.",
            "decorate Mine with @keras.saving.register_keras_serializable() and import its module before the file is "
            "loaded; or pass custom_objects={'Mine': Mine}; or, for a loss or a metric, compile=False",
        ),
        (
            PROPER,
            PROPER + "\n    def build(self, shape):\n        self.w = self.add_weight(shape=(1,))\n",
            "objects could not be loaded",
            "the model's layers differ from those in the file, or were built differently",
        ),
    ],
    ids=["no kwargs", "other config", "other argument", "missing argument", "not registered", "other variables"],
)
def test_each_mistake_in_a_layer_of_ones_own_has_its_own_hint(
    files: Callable[..., Path], source: str, now: str, reason: str, hint: str
) -> None:
    path = files(source)
    keras.saving.get_custom_objects().pop("files>Mine", None)
    exec(now, {"keras": keras, "__name__": "mine"})  # noqa: S102 - the class as it is now
    with pytest.raises(BuilderError) as refused:
        load_keras(path)
    said = str(refused.value)
    assert reason in said
    assert hint in said
    assert "deserialized properly" not in said
    assert "config=" not in said


def test_a_layer_is_found_as_keras_finds_it(files: Callable[..., Path]) -> None:
    path = files(PROPER.replace(REGISTER, ""))
    namespace: dict[str, Any] = {"keras": keras, "__name__": "mine"}
    exec(PROPER.replace(REGISTER, ""), namespace)  # noqa: S102
    assert load_keras(path, custom_objects={"Mine": namespace["Mine"]}).count_params() == 8
    with keras.saving.custom_object_scope({"Mine": namespace["Mine"]}):
        assert load_keras(path).count_params() == 8


def test_a_loss_of_ones_own_is_not_needed_unless_it_is_asked_for(tmp_path: Path) -> None:
    def mine(wanted: Any, found: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(wanted - found))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", mine)
    model.save(tmp_path / "loss.keras")
    assert not load_keras(tmp_path / "loss.keras").compiled
    with pytest.raises(BuilderError, match="Could not locate function 'mine'"):
        load_keras(tmp_path / "loss.keras", compile=True)


def test_a_lambda_layer_is_loaded_only_when_its_code_is_trusted(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda rows: rows * 2)]).save(tmp_path / "lambda.keras")
    with pytest.raises(
        BuilderError,
        match=r"a Lambda layer is Python code in the file\. If you trust the file, load_keras\(path, safe_mode=False",
    ):
        load_keras(tmp_path / "lambda.keras")
    model = load_keras(tmp_path / "lambda.keras", safe_mode=False)
    np.testing.assert_array_equal(model(np.ones((1, 3), np.float32)), [[2, 2, 2]])


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model as `.keras`, `.h5` and `.weights.h5`."""
    folder = tmp_path_factory.mktemp("right")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
    model.save_weights(folder / "model.weights.h5")
    return folder


def rewritten(path: Path, copy: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of a `.keras` file whose members `change` changes, or leaves out."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as new:
        for name in archive.namelist():
            if (content := change(name, archive.read(name))) is not None:
                new.writestr(name, content)
    return copy


def test_a_whole_model_in_hdf5_is_loaded(right: Path) -> None:
    weights = [load_keras(right / name).get_weights() for name in ("model.keras", "model.h5")]
    np.testing.assert_array_equal(weights[0][0], weights[1][0])


def test_a_file_that_is_none_is_told(right: Path, tmp_path: Path) -> None:
    content = {name: (right / name).read_bytes() for name in ("model.keras", "model.h5", "model.weights.h5")}
    wrong = {
        "text.keras": (b"no archive", r"is neither a \.keras nor an \.h5 file"),
        "cut.keras": (content["model.keras"][:-100], r"is neither a \.keras nor an \.h5 file, or it is damaged"),
        "text.h5": (b"no archive", r"is neither a \.keras nor an \.h5 file, or it is damaged"),
        "cut.h5": (content["model.h5"][:900], "the file is damaged or incomplete"),
        "hdf5.keras": (content["model.h5"], r"contains a model in the format \.h5\. Rename it to hdf5\.h5"),
        "zip.h5": (content["model.keras"], r"contains a model in the format \.keras\. Rename it to zip\.keras"),
        "model.weights.h5": (
            content["model.weights.h5"],
            r"has weights but no model\. Make the model in the builder, then call model\.load_weights\(",
        ),
        "renamed.h5": (content["model.weights.h5"], r"has weights but no model: .* model\.load_weights\(path\)"),
    }
    for name, (written, problem) in wrong.items():
        (tmp_path / name).write_bytes(written)
        with pytest.raises(BuilderError, match=rf"{name}.*{problem}|{name}.*\n  .*{problem}"):
            load_keras(tmp_path / name)
    with pytest.raises(BuilderError, match=r"none\.keras does not exist"):
        load_keras(tmp_path / "none.keras")
    for change in (
        lambda name, content: None if name == "config.json" else content,
        lambda name, content: None if name.endswith(".h5") else content,
        lambda name, content: b"{" if name == "config.json" else content,
        lambda name, content: content[:500] if name.endswith(".h5") else content,
    ):
        damaged = rewritten(right / "model.keras", tmp_path / "damaged.keras", change)
        with pytest.raises(BuilderError, match="the file is damaged or incomplete"):
            load_keras(damaged)


def test_a_folder_says_what_loads_it(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"))
    with pytest.raises(
        BuilderError, match=r"is a SavedModel\. Write `saved_model: .*saved` in models\.yaml to serve it as it is"
    ):
        load_keras(tmp_path / "saved")
    with pytest.raises(BuilderError, match="is a folder; expected a file that"):
        load_keras(tmp_path)


def test_a_layer_of_keras_2_in_hdf5_says_how_to_write_it_anew(tmp_path: Path) -> None:
    # As tf-keras writes an LSTM.
    class LSTM(keras.layers.LSTM):  # type: ignore[misc]
        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "time_major": False}

    keras.Sequential([keras.Input((3, 2)), LSTM(2)]).save(tmp_path / "old.h5")
    with pytest.raises(BuilderError, match=r"If tf-keras wrote it, save it again with tf-keras: model\.save_weights\("):
        load_keras(tmp_path / "old.h5")


def test_a_file_of_another_version_of_keras_says_so(right: Path, tmp_path: Path) -> None:
    def written_by(version: str) -> Callable[[str, bytes], bytes]:
        def change(name: str, content: bytes) -> bytes:
            if name == "metadata.json":
                return json.dumps({"keras_version": version}).encode()
            # An argument that this version's layer does not have.
            return (
                content.replace(b'"activation":', b'"time_major": false, "activation":') if ".json" in name else content
            )

        return change

    hints = {
        "2.15.0": r"Keras 2\.15\.0 \(tf-keras\) wrote it, and Keras 3\..* is installed\. .* model\.save_weights\(",
        "99.1.0": r"Keras 99\.1\.0 wrote it, and Keras 3\..* is installed: pip install 'keras>=99\.1\.0'",
        keras.__version__: "another version of Keras has a Dense that accepts them; load the file with that version",
    }
    for version, hint in hints.items():
        path = rewritten(right / "model.keras", tmp_path / "other.keras", written_by(version))
        with pytest.raises(BuilderError, match=hint):
            load_keras(path)


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
