from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.serving.embedded.saved_models import rows
from tfserving.serving.embedded.core.loader import CALLS_KEPT, Runtime, load
from tfserving.serving.embedded.errors import Code, RequestError


def test_a_loaded_version_knows_its_signatures(models: Path) -> None:
    servable = load("pair", 1, models / "pair" / "1", Runtime())
    signature = servable.signatures["serving_default"]

    assert {name: str(spec) for name, spec in signature.inputs.items()} == {
        "features": "float32 (?, 3)",
        "weight": "float32 (?,)",
    }
    assert list(signature.outputs) == ["doubled", "total"]
    assert signature.method == "tensorflow/serving/predict"
    servable.close()


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(intra_op_threads=1, inter_op_threads=2)])
def test_a_version_runs_with_any_number_of_threads(models: Path, runtime: Runtime) -> None:
    servable = load("scale", 1, models / "scale" / "1", runtime)
    outputs = servable.run(servable.signatures["serving_default"], [rows(2)], ("y", "version"))

    assert np.array_equal(outputs[0], rows(2) * 2)
    assert outputs[1].tolist() == [1, 1]
    servable.close()


def test_the_calls_that_are_kept_have_an_end(models: Path) -> None:
    servable = load("pair", 1, models / "pair" / "1", Runtime())
    signature = servable.signatures["serving_default"]
    inputs = [rows(1), np.ones(1, np.float32)]
    # Clients can make as many different filters as they like.
    for count in range(1, CALLS_KEPT + 10):
        assert len(servable.run(signature, inputs, ("total",) * count)) == count

    assert len(servable._calls) == CALLS_KEPT
    servable.close()


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda folder, _: folder, Code.NOT_FOUND, "does not appear to contain a SavedModel bundle"),
        (lambda _, models: models / "broken" / "1", Code.OUT_OF_RANGE, "Read less bytes than requested; "),
    ],
)
def test_what_is_no_saved_model_says_so(tmp_path: Path, models: Path, make: object, code: Code, text: str) -> None:
    assert callable(make)
    with pytest.raises(RequestError) as failure:
        load("m", 1, make(tmp_path, models), Runtime())

    assert failure.value.code is code
    assert text in str(failure.value)


def test_a_version_whose_variables_are_missing_does_not_load(tmp_path: Path, models: Path) -> None:
    import shutil

    shutil.copytree(models / "scale" / "1", tmp_path / "1")
    shutil.rmtree(tmp_path / "1" / "variables")

    with pytest.raises(RequestError):
        load("m", 1, tmp_path / "1", Runtime())
