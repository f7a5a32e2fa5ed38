"""What is written for a server to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export import savedmodel
from tfserving.export.edge_requests import EdgeRequest
from tfserving.export.errors import ServableError
from tfserving.export.golden import golden_requests
from tfserving.export.servable import Servable, TensorSpec
from tfserving.export.tracking import variables_of


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
        (zoo.fixed_function_batch, "its function can't be made a graph for rows: float32 (None, 3): "),
        (
            zoo.untracked,
            "uses the variables hidden:0, which Scale does not track; make them attributes of the Scale or",
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
    with pytest.raises(
        ServableError, match=r"module is a function, which TensorFlow can't save; a Keras model or a tf\.Module"
    ):
        variables_of(zoo.scale)
