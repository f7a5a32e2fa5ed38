"""SavedModels that something else wrote, given signatures that can be served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.errors import BuilderError, ServableError
from tfserving.export.existing import load_existing
from tfserving.export.exporter import Exported
from tfserving.export.lint import lint_version
from tfserving.export.models.resigned import write_as_found
from tfserving.export.servable import Servable, Signature, TensorSpec

MEASUREMENTS = np.random.default_rng(2).normal(size=(64, 30)).astype(np.float32)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel as people find them: `features` of 32 rows and `temperature` in, `output_0` out; to be read."""
    folder = tmp_path_factory.mktemp("existing") / "found"
    write_as_found(folder, MEASUREMENTS, (MEASUREMENTS[:, 0] > 0).astype(np.int64))
    return folder


def test_its_signatures_are_told_as_they_are(found: Path) -> None:
    signature = load_existing(found).signatures["serving_default"]
    assert signature.inputs == {
        "features": TensorSpec("float32", (32, 30)),
        "temperature": TensorSpec("float32", ()),
    }
    assert signature.outputs == {"output_0": TensorSpec("float32", (32, 1))}


@pytest.mark.parametrize("rows", [1, 5, 32, 64])
def test_any_batch_makes_it_take_any_and_answer_the_same(found: Path, rows: int) -> None:
    fixed, free = load_existing(found), load_existing(found, any_batch=True)
    assert free.signatures["serving_default"].inputs["features"] == TensorSpec("float32", (None, 30))
    asked = tf.constant(np.resize(MEASUREMENTS, (rows, 30)))
    answer = free.functions["serving_default"](features=asked, temperature=tf.constant(2.0))["output_0"].numpy()
    assert answer.shape == (rows, 1)
    whole = tf.constant(MEASUREMENTS[:32])
    wanted = fixed.functions["serving_default"](features=whole, temperature=tf.constant(2.0))["output_0"].numpy()
    np.testing.assert_allclose(answer[: min(rows, 32)], wanted[:rows], rtol=1e-5, atol=1e-6)


def test_the_original_is_left_as_it_was(found: Path) -> None:
    before = (found / "saved_model.pb").read_bytes()
    load_existing(found, any_batch=True)
    assert (found / "saved_model.pb").read_bytes() == before
    assert load_existing(found).signatures["serving_default"].inputs["features"].shape == (32, 30)


def test_renamed_freed_and_with_a_frozen_input_it_lints_clean(
    found: Path, export_here: Callable[..., Exported]
) -> None:
    assert {finding.rule for finding in lint_version(found)} == {"made-up-name", "unbatched"}

    def build() -> Servable:
        existing = load_existing(found, any_batch=True)
        model = existing.functions["serving_default"]

        def score(measurements: Any) -> dict[str, Any]:
            return {"score": model(features=measurements, temperature=tf.constant(1.0))["output_0"]}

        inputs = {"measurements": TensorSpec("float32", (None, 30))}
        return Servable(
            existing.module,
            {"serving_default": Signature(score, inputs, ("score",))},
            {"serving_default": {"measurements": MEASUREMENTS}},
        )

    exported = export_here(build)
    assert exported.proof.identical
    assert lint_version(exported.path) == []


def test_one_whose_convolution_gets_unchecked_tensors_checks_them_when_it_is_exported(
    tmp_path: Path, export_here: Callable[..., Exported]
) -> None:
    kernel = tf.ones((3, 3, 1, 2))
    function = tf.function(lambda image: {"maps": tf.nn.conv2d(image, kernel, 1, "SAME")})
    spec = tf.TensorSpec((None, 4, 4, 1), tf.float32, name="image")
    tf.saved_model.save(tf.Module(), str(tmp_path / "found"), signatures=function.get_concrete_function(spec))
    (finding,) = lint_version(tmp_path / "found")
    assert str(finding) == (
        "[unchecked-rank] signature 'serving_default', input 'image': its rank is not checked before Conv2D "
        "(Conv2D), and a wrong rank crashes the server there. Export it with a builder, which checks every input."
    )

    def build() -> Servable:
        existing = load_existing(tmp_path / "found")
        signature = Signature(
            existing.functions["serving_default"], {"image": TensorSpec("float32", (None, 4, 4, 1))}, ("maps",)
        )
        images = MEASUREMENTS[:, :16].reshape(-1, 4, 4, 1)
        return Servable(existing.module, {"serving_default": signature}, {"serving_default": {"image": images}})

    exported = export_here(build)
    assert lint_version(exported.path) == []
    loaded = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Shape of tensor image \[1\] is not compatible with"):
        loaded(image=tf.ones(1))


def test_a_graph_that_insists_on_its_batch_is_found_out(tmp_path: Path, export_here: Callable[..., Exported]) -> None:
    module = zoo.Scale()
    function = tf.function(lambda rows: {"scaled": tf.reshape(rows * module.factor, (4, 3))})
    concrete = function.get_concrete_function(tf.TensorSpec((4, 3), tf.float32, name="rows"))
    tf.saved_model.save(module, str(tmp_path / "stubborn"), signatures=concrete)

    def build() -> Servable:
        existing = load_existing(tmp_path / "stubborn", any_batch=True)
        return zoo.servable(existing.module, existing.functions["serving_default"])

    with pytest.raises(ServableError):
        export_here(build)
    assert not (tmp_path / "models/model").exists()


def test_one_without_signatures_says_so(tmp_path: Path) -> None:
    tf.saved_model.save(zoo.Stack(), str(tmp_path / "empty"))
    with pytest.raises(BuilderError, match="empty has no signature, so it can't be called"):
        load_existing(tmp_path / "empty")


def test_one_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"is not a SavedModel: .*saved_model\.pb: No such file"):
        load_existing(tmp_path)
    tf.saved_model.save(zoo.Scale(), str(tmp_path / "cut"), signatures={"a": savable()})
    (tmp_path / "cut/variables/variables.index").unlink()
    with pytest.raises(BuilderError, match="cut can't be loaded: "):
        load_existing(tmp_path / "cut")


def savable() -> Any:
    return tf.function(lambda rows: {"y": rows * 2}).get_concrete_function(
        tf.TensorSpec((None,), tf.float32, name="rows")
    )


def test_a_restored_keras_model_cannot_be_called_and_its_signature_can(tmp_path: Path) -> None:
    # What `load_existing` answers functions for.
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    tf.saved_model.save(model, str(tmp_path / "saved"))
    with pytest.raises(TypeError, match="'_UserObject' object is not callable"):
        tf.saved_model.load(str(tmp_path / "saved"))(zoo.ROWS)
    existing = load_existing(tmp_path / "saved")
    (name,) = existing.signatures["serving_default"].inputs
    (answer,) = existing.functions["serving_default"](**{name: tf.constant(zoo.ROWS)}).values()
    np.testing.assert_array_equal(answer.numpy(), model(zoo.ROWS).numpy())


def test_functions_take_their_inputs_by_position_in_the_order_of_their_names(tmp_path: Path) -> None:
    function = tf.function(lambda tens, ones: {"sum": 10 * tens + ones})
    spec = {name: tf.TensorSpec((None,), tf.float32, name=name) for name in ("tens", "ones")}
    signatures = {"both": function.get_concrete_function(**spec), "one": savable()}
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), signatures=signatures)
    existing = load_existing(tmp_path / "saved")
    both, one = existing.functions["both"], existing.functions["one"]
    assert list(existing.signatures["both"].inputs) == ["ones", "tens"]
    first, second = tf.constant([1.0]), tf.constant([2.0])
    assert one(second)["y"].numpy().tolist() == [4.0]
    for answer in (both(first, second), both(first, tens=second), both(tens=second, ones=first)):
        assert answer["sum"].numpy().tolist() == [21.0]
    takes = r"functions\['both'\] takes 'ones', 'tens'; "
    for wrong, given, named in (
        ("got 3 inputs by position", (first,) * 3, {}),
        ("'ones' is given twice", (first,), {"ones": first}),
        ("'hundreds' is not an input", (), {"hundreds": first}),
    ):
        with pytest.raises(TypeError, match=takes + wrong):
            both(*given, **named)


def test_one_of_tensorflow_1_may_have_an_input_called_self(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        rows = v1.placeholder(tf.float32, (None,), name="rows")
        v1.saved_model.simple_save(session, str(tmp_path / "old"), {"self": rows}, {"twice": rows * 2})
    twice = load_existing(tmp_path / "old").functions["serving_default"]
    for answer in (twice(tf.constant([4.0])), twice(self=tf.constant([4.0]))):
        assert answer["twice"].numpy().tolist() == [8.0]
