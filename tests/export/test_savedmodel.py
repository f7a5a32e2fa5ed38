"""What is written for a server to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.exporting import fresh_process
from tfserving.export import savedmodel
from tfserving.export.edge_requests import EdgeRequest
from tfserving.export.errors import ServableError
from tfserving.export.existing import load_existing
from tfserving.export.exporter import Exported
from tfserving.export.golden import golden_requests
from tfserving.export.proof import prove
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.export.tolerances import Judge
from tfserving.export.tracking import variables_of
from tfserving.foundation.golden import read_golden
from tfserving.serving.embedded.core import loader


def write(servable: Servable, folder: Path) -> Any:
    return savedmodel.write_savedmodel(servable, savedmodel.trace(servable), folder)


def test_the_signatures_have_the_declared_names_and_any_batch(tmp_path: Path) -> None:
    written = write(zoo.texts(), tmp_path)
    assert set(written) == {"serving_default", "loud"}
    assert written["loud"].inputs == {"text": TensorSpec("string", (None,))}
    assert written["loud"].outputs == {"text_bytes": TensorSpec("string", (None,))}
    assert written["serving_default"].outputs == {"number": TensorSpec("int64", (None,))}
    assert {signature.method for signature in written.values()} == {"predict"}
    assert savedmodel.read_signatures(tmp_path) == written


@pytest.mark.parametrize("builder", [zoo.scale, zoo.trained, zoo.texts])
def test_a_session_answers_as_the_live_model(builder: Callable[[], Servable], tmp_path: Path) -> None:
    servable = builder()
    # What a fused kernel makes of NaN is the processor's business.
    requests = [request for request in golden_requests(servable) if not isinstance(request, EdgeRequest)]
    write(servable, tmp_path)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path)).signature_def
        for request in requests:
            inputs, outputs = signatures[request.signature].inputs, signatures[request.signature].outputs
            answer = session.run(
                {name: info.name for name, info in outputs.items()},
                {inputs[name].name: array for name, array in request.inputs.items()},
            )
            for name, wanted in request.outputs.items():
                np.testing.assert_array_equal(answer[name], wanted)


def test_only_what_the_signatures_use_is_written(tmp_path: Path) -> None:
    servable = zoo.trained()
    assert any("optimizer" in path for path in variables_of(servable.module))
    write(servable, tmp_path)
    saved = [name for name, _ in tf.train.list_variables(str(tmp_path / "variables" / "variables"))]
    assert len([name for name in saved if name.endswith("VARIABLE_VALUE")]) == 4
    assert not any("optimizer" in name for name in saved)


def test_the_saved_variables_keep_their_names(tmp_path: Path) -> None:
    servable = zoo.trained()
    write(servable, tmp_path)
    saved = tf.saved_model.load(str(tmp_path)).used
    assert set(saved) == {"first.kernel", "first.bias", "second.kernel", "second.bias"}
    np.testing.assert_array_equal(saved["second.kernel"].numpy(), servable.module.second.kernel.numpy())


def test_an_unbuilt_model_is_refused_with_the_variables_that_it_lacks() -> None:
    servable = zoo.unbuilt()
    before = variables_of(servable.module)
    list(golden_requests(servable))
    with pytest.raises(
        ServableError, match=r"Stack was not built: its variables first\.kernel, .*second\.bias"
    ) as error:
        savedmodel.check_built(servable, before)
    assert "call it on example rows, model(examples), and then load or train its weights" in str(error.value)


def test_a_built_model_passes() -> None:
    servable = zoo.trained()
    before = variables_of(servable.module)
    list(golden_requests(servable))
    savedmodel.check_built(servable, before)


@pytest.mark.parametrize(
    ("builder", "problem"),
    [
        (zoo.fixed_function_batch, "its function can't be traced with rows: float32 (?, 3): "),
        (
            zoo.untracked,
            "uses the variables hidden:0, which Scale does not track. Make them attributes of the Scale or",
        ),
    ],
    ids=["function", "untracked"],
)
def test_a_function_that_makes_no_servable_graph_is_refused(builder: Callable[[], Servable], problem: str) -> None:
    with pytest.raises(ServableError) as refused:
        savedmodel.trace(builder())
    assert str(refused.value).removeprefix("[untracked-variable] ").startswith("signature 'serving_default'")
    assert problem in str(refused.value)


def test_a_module_that_tensorflow_cannot_save_is_refused() -> None:
    with pytest.raises(ServableError, match=r"module: got a function, expected a Keras model or a tf\.Module"):
        variables_of(zoo.scale)


def test_an_input_may_be_called_self_and_have_a_default(export_here: Callable[..., Exported]) -> None:
    def scaled(self: Any, rows: Any, name: Any) -> dict[str, Any]:
        return {"scaled": rows * self + name}

    def build() -> Servable:
        inputs = dict.fromkeys(("rows", "self", "name"), TensorSpec("float32", (None, 3)))
        signature = Signature(scaled, inputs, ("scaled",), defaults={"self": np.full((1, 3), 4, np.float32)})
        return Servable(
            tf.Module(), {"serving_default": signature}, {"serving_default": dict.fromkeys(inputs, zoo.ROWS)}
        )

    exported = export_here(build)
    requests = read_golden(exported.path).requests
    assert exported.proof.requests == len(requests) == 6
    assert any("self" not in request.inputs for request in requests)
    served = loader.load("model", 1, exported.path, loader.Runtime())
    assert sorted(served.signatures["serving_default"].inputs) == ["name", "rows", "self"]
    # Whoever gives such a version better signatures has the same inputs.
    existing = load_existing(exported.path)
    ones = tf.ones((1, 3))
    answered = existing.functions["serving_default"](name=ones, rows=ones * 2, self=ones * 3)["scaled"]
    assert answered.numpy().tolist() == [[7.0, 7.0, 7.0]]


def any_shape(rows: Any) -> dict[str, Any]:
    return {"scaled": tf.reshape(rows, tf.concat([tf.shape(rows), tf.ones([0], tf.int32)], 0))}


UNKNOWN = tf.TensorSpec(None, tf.float32, name="rows")


@pytest.mark.parametrize(
    "function",
    [any_shape, tf.function(any_shape, input_signature=[UNKNOWN]), tf.function(lambda rows: {"scaled": rows * 2})],
    ids=["output", "input and output", "neither"],
)
def test_the_more_exact_shape_is_written(function: Any, tmp_path: Path) -> None:
    servable = zoo.servable(tf.Module(), function)
    written = write(servable, tmp_path)["serving_default"]
    assert written.inputs == {"rows": TensorSpec("float32", (None, 3))}
    assert written.outputs["scaled"] in (TensorSpec("float32", None), TensorSpec("float32", (None, 3)))
    requests = list(golden_requests(servable))
    _, proof = prove(fresh_process(), tmp_path, {"serving_default": written}, requests, Judge())
    assert proof.requests == len(requests)


def test_a_mutable_tables_lookup_has_a_shape_when_it_is_written(export_here: Callable[..., Exported]) -> None:
    # Its shape isn't known in the function that looks it up.
    def build() -> Servable:
        module = tf.Module()
        module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        module.table.insert(["cat", "dog"], [3, 4])
        texts = zoo.texts()
        text = texts.signatures["loud"].inputs
        signature = Signature(lambda text: {"number": module.table.lookup(text)}, text, ("number",))
        return Servable(module, {"serving_default": signature}, {"serving_default": texts.examples["loud"]})

    exported = export_here(build)
    assert savedmodel.read_signatures(exported.path)["serving_default"].outputs == {
        "number": TensorSpec("int64", (None,))
    }


def test_what_is_written_otherwise_than_it_was_traced_is_told_in_words(tmp_path: Path) -> None:
    servable = zoo.trained()
    functions = savedmodel.trace(servable)
    written = savedmodel.write_savedmodel(servable, functions, tmp_path)
    one = written["serving_default"]
    other = one.model_copy(update={"outputs": {"scaled": TensorSpec("float32", (None, None))}})
    with pytest.raises(ServableError) as refused:
        savedmodel._check_written(servable, functions, {"serving_default": other})
    assert str(refused.value) == (
        "signature 'serving_default', output 'scaled': it was written as float32 (?, ?), expected float32 (?, 2)"
    )
    assert str(one) == "predict from rows: float32 (?, 3) to scaled: float32 (?, 2)"


def test_whatever_tensorflow_raises_when_it_saves_is_an_error_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = zoo.scale()
    functions = savedmodel.trace(servable)

    def save(*_: object, **__: object) -> None:
        raise KeyError("missing")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(ServableError, match="TensorFlow can't save Scale: KeyError: 'missing'"):
        savedmodel.write_savedmodel(servable, functions, tmp_path)
