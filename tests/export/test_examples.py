"""Signatures that classify or regress tf.Examples, from their declaration to what a server answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_diabetes, load_wine

from tests.servers import Served
from tfserving.clients import connect
from tfserving.export import savedmodel
from tfserving.export.errors import ServableError
from tfserving.export.examples import serialized_examples
from tfserving.export.exporter import Exported
from tfserving.export.golden import golden_requests
from tfserving.export.records import write_golden
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.golden import WARMUP, read_golden
from tfserving.foundation.messages import PredictionLog, SavedModel
from tfserving.foundation.records import read_records

INPUTS = {"inputs": TensorSpec("string", (None,))}
ROWS = [{"length": 0.5 * number, "name": f"flower {number}"} for number in range(40)]


def flowers(**changed: Any) -> Servable:
    """Classifies by name and regresses the length; `changed` are other signatures instead."""
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    def parse(inputs: Any) -> Any:
        features = {"length": tf.io.FixedLenFeature([], tf.float32), "name": tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_example(inputs, features)

    def classify(inputs: Any) -> dict[str, Any]:
        parsed = parse(inputs)
        scores = parsed["length"] * module.factor
        return {"classes": parsed["name"][:, tf.newaxis], "scores": scores[:, tf.newaxis]}

    def regress(inputs: Any) -> dict[str, Any]:
        return {"outputs": parse(inputs)["length"] * module.factor}

    signatures = {
        "serving_default": Signature(classify, INPUTS, ("classes", "scores"), "classify"),
        "labels": Signature(lambda inputs: {"classes": classify(inputs)["classes"]}, INPUTS, ("classes",), "classify"),
        "length": Signature(regress, INPUTS, ("outputs",), "regress"),
    } | changed
    examples = {"inputs": serialized_examples(ROWS)}
    return Servable(module, signatures, dict.fromkeys(signatures, examples))


def test_a_version_says_which_method_each_signature_is_for(export_here: Callable[..., Exported]) -> None:
    exported = export_here(flowers)

    saved = SavedModel.FromString((exported.path / "saved_model.pb").read_bytes())
    assert {name: it.method_name for name, it in saved.meta_graphs[0].signature_def.items() if name[0] != "_"} == {
        "serving_default": "tensorflow/serving/classify",
        "labels": "tensorflow/serving/classify",
        "length": "tensorflow/serving/regress",
    }
    assert exported.proof.identical


def test_golden_requests_are_the_methods_own_with_the_live_models_answers(export_here: Callable[..., Exported]) -> None:
    requests = read_golden(export_here(flowers).path).requests

    assert [(request.signature, request.method, len(request.inputs["inputs"])) for request in requests] == [
        (signature, method, rows)
        for signature, method in (("serving_default", "classify"), ("labels", "classify"), ("length", "regress"))
        for rows in (1, 2, 7, 32, 7)
    ]
    assert requests[1].outputs["classes"].tolist() == [["flower 1"], ["flower 2"]]
    assert requests[1].outputs["scores"].tolist() == [[1.0], [2.0]]
    assert requests[6].outputs["scores"].tolist() == [[0.0], [0.0]]
    assert requests[11].outputs["outputs"].tolist() == [1.0, 2.0]


def test_warm_up_requests_are_the_golden_ones_and_more_sizes_without_answers(
    export_here: Callable[..., Exported],
) -> None:
    logs = [PredictionLog.FromString(record) for record in read_records(export_here(flowers).path / WARMUP)]

    golden = ["classify_log"] * 10 + ["regress_log"] * 5
    # Batches of 4, 8 and 16 rows for `labels`, `length` and `serving_default`.
    more = ["classify_log"] * 3 + ["regress_log"] * 3 + ["classify_log"] * 3
    assert [log.WhichOneof("log_type") for log in logs] == golden + more
    assert not any(log.classify_log.HasField("response") or log.regress_log.HasField("response") for log in logs)


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        (
            Signature(
                lambda rows: {"scores": rows}, {"rows": TensorSpec("float32", (None, 3))}, ("scores",), "classify"
            ),
            "classify requires the input 'inputs': string (?,) alone, serialized tf.Examples; got 'rows': float32 ",
        ),
        (
            Signature(lambda inputs: {"labels": inputs}, INPUTS, ("labels",), "classify"),
            "classify requires the outputs 'classes' and 'scores' or 'scores' or 'classes'; got 'labels'",
        ),
        (
            Signature(lambda inputs: {"value": inputs}, INPUTS, ("value",), "regress"),
            "regress requires the outputs 'outputs'; got 'value'",
        ),
    ],
)
def test_a_signature_that_can_not_be_asked_so_is_refused(signature: Signature, text: str) -> None:
    servable = replace(flowers(), signatures={"wrong": signature}, examples={})

    with pytest.raises(ServableError) as caught:
        servable.check()
    assert f"signature 'wrong': {text}" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "outputs", "text"),
    [
        (
            "classify",
            {"scores": tf.zeros([40])},
            "output 'scores': got float32 (?,), expected float32 (batch,",
        ),
        ("classify", {"classes": tf.zeros([40, 2])}, "output 'classes': got float32 (?, 2), expected string ("),
        (
            "regress",
            {"outputs": tf.zeros([40, 2])},
            "output 'outputs': got float32 (?, 2), expected float32 (",
        ),
        ("regress", {"outputs": tf.zeros([40], tf.int64)}, "output 'outputs': got int64 (?,), expected float32 ("),
    ],
)
def test_outputs_that_a_server_would_refuse_are_refused(method: Any, outputs: dict[str, Any], text: str) -> None:
    def answer(inputs: Any) -> dict[str, Any]:
        return {name: value[: tf.shape(inputs)[0]] for name, value in outputs.items()}

    servable = flowers(wrong=Signature(answer, INPUTS, tuple(outputs), method))

    with pytest.raises(ServableError) as caught:
        savedmodel.trace(servable)
    assert f"signature 'wrong', {text}" in str(caught.value)


def test_a_label_that_is_no_text_is_refused(tmp_path: Path) -> None:
    def answer(inputs: Any) -> dict[str, Any]:
        return {"classes": tf.fill([tf.shape(inputs)[0], 1], b"\xff")}

    servable = flowers(wrong=Signature(answer, INPUTS, ("classes",), "classify"))
    with pytest.raises(ServableError, match=r"output 'classes' has the label b'.xff', not UTF-8"):
        write_golden(golden_requests(servable), "model", tmp_path)


@pytest.mark.xdist_group("samples")
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_real_wines_and_patients_are_told(sample_server: Served, protocol: str) -> None:
    wine, diabetes = load_wine(), load_diabetes()
    names = [name.replace("/", "_") for name in wine.feature_names]
    with connect(sample_server.url(protocol)) as client:
        wines = client.classify("wine", [dict(zip(names, row, strict=True)) for row in wine.data])
        told = wines.labels[np.arange(len(wine.data)), wines.scores.argmax(axis=1)]
        assert np.mean(told == np.array([str(wine.target_names[target]) for target in wine.target], object)) > 0.94
        patients = [dict(zip(diabetes.feature_names, row, strict=True)) for row in diabetes.data]
        values = client.regress("diabetes", patients).values
        assert np.corrcoef(values, diabetes.target)[0, 1] > 0.6
        arrays = client.predict("diabetes", diabetes.data.astype(np.float32), signature="predict")
        np.testing.assert_allclose(arrays.outputs["progression"], values, rtol=1e-5)
