"""Variables on disk are read without TensorFlow as TensorFlow reads them, and called what the model calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.conftest import export_to
from tests.export.zoo import ROWS, servable
from tfserving.export.errors import ExportError
from tfserving.export.inspection import inspect_version
from tfserving.export.variables import INDEX, Variables
from tfserving.export.weights import weight_changes
from tfserving.foundation.tensors import BY_NAME

DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "uint64", "bool", "complex64")


class Deep(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [keras.layers.Dense(3) for _ in range(2)]
        self.head = keras.layers.Dense(1)

    def call(self, rows: Any) -> Any:
        for block in self.blocks:
            rows = block(rows)
        return self.head(rows)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with variables of many types and shapes, more than one block of an index has room for."""
    module, random = tf.Module(), np.random.default_rng(1)
    module.all = {
        f"{dtype}.{number}/x": tf.Variable(tf.cast(random.integers(0, 2, (number, 3)), dtype))
        for dtype in DTYPES
        for number in range(12)
    }
    module.words = tf.Variable([["a", "béta"], ["", "x" * 300]])
    module.scalar = tf.Variable(7)
    module.weights = [tf.Variable(1.0), tf.Variable(2.0)]
    module.metrics = tf.Variable(3.0)
    folder = tmp_path_factory.mktemp("many")
    tf.saved_model.save(module, str(folder))
    return folder


def test_variables_are_what_tensorflow_reads(many: Path) -> None:
    reader = tf.train.load_checkpoint(str(many / "variables/variables"))
    shapes = {name: shape for name, shape in reader.get_variable_to_shape_map().items() if "ATTRIBUTES" in name}
    with Variables(many) as found:
        assert {key: list(one.shape) for key, one in found.items()} == shapes
        assert (many / INDEX).stat().st_size > 4096
        for key, one in found.items():
            data, expected = b"".join(found.pieces(one, 7)), reader.get_tensor(key)
            if one.dtype == "string":
                assert all(word in data for word in expected.ravel())
            else:
                assert np.frombuffer(data, BY_NAME[one.dtype].numpy).tobytes() == expected.tobytes()
        assert {one.name for one in found.values()} >= {"words", "scalar", "metrics", "weights.1", "all.bfloat16.3/x"}


def test_a_model_that_keras_saved_has_its_own_names(tmp_path: Path) -> None:
    model = Deep()
    model.compile("adam", "mse")
    model.fit(ROWS, ROWS[:, :1], verbose=0)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    names = [variable.name for variable in inspect_version(tmp_path / "saved").variables]
    assert {f"blocks.{number}.{part}" for number in (0, 1) for part in ("kernel", "bias")} < {*names}
    assert {"head.kernel", "head.bias"} < {*names}
    assert all("adam" in name for name in names[6:])
    assert not [name for name in names if "_variables" in name]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:20] + b"\xff" + data[21:], lambda _: b""]
)
def test_a_damaged_index_is_an_error(many: Path, tmp_path: Path, damage: Any) -> None:
    (tmp_path / INDEX).parent.mkdir()
    (tmp_path / INDEX).write_bytes(damage((many / INDEX).read_bytes()))
    with pytest.raises(ExportError, match="is damaged, or it is not a checkpoint of TensorFlow"):
        Variables(tmp_path)


def test_weights_are_matched_by_their_content(tmp_path: Path) -> None:
    """A layer that is new in front moves the others."""
    kernels = np.random.default_rng(2).normal(size=(4, 3, 3)).astype(np.float32)

    def layers(*numbers: int) -> Any:
        module = tf.Module()
        module.layers = [tf.Variable(kernels[number], name="kernel") for number in numbers]

        def build() -> Any:
            return servable(module, lambda rows: {"scaled": sum(rows @ layer for layer in module.layers)})

        return build

    for numbers in ((1, 2), (0, 1, 2), (3, 1, 2)):
        export_to(tmp_path, layers(*numbers))
    changes, equal = weight_changes(tmp_path / "1", tmp_path / "2")
    assert [(one.old_name, one.variable, one.what) for one in changes] == [
        (None, "layers.0", "added"),
        ("layers.0", "layers.1", "renamed"),
        ("layers.1", "layers.2", "renamed"),
    ]
    assert equal == 2
    (change,), equal = weight_changes(tmp_path / "2", tmp_path / "3")
    assert (change.variable, change.what, equal) == ("layers.0", "changed", 2)
    assert change.largest == np.abs(kernels[3] - kernels[0].astype(np.float64)).max()
