"""Classify, regress and multi-inference: requests of tf.Examples, over both protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.serving.embedded.running import Asker, together
from tfserving.foundation.messages import (
    ClassificationRequest,
    ClassificationResponse,
    Example,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictionLog,
    RegressionRequest,
    RegressionResponse,
)
from tfserving.foundation.records import write_records
from tfserving.serving.embedded.core import warmup
from tfserving.serving.embedded.core.batch_parameters import Parameters
from tfserving.serving.embedded.core.batching import Scheduler
from tfserving.serving.embedded.core.example_messages import infer_all
from tfserving.serving.embedded.core.examples import Classifications
from tfserving.serving.embedded.core.loader import Batching, Runtime, load
from tfserving.serving.embedded.errors import RequestError

pytestmark = together

KINDS = {float: "float_list", bytes: "bytes_list", int: "int64_list"}
METHODS = {
    "Classify": (ClassificationRequest, ClassificationResponse),
    "Regress": (RegressionRequest, RegressionResponse),
}


def example(**features: Any) -> Any:
    made = Example()
    for name, value in features.items():
        getattr(made.features.feature[name], KINDS[type(value)]).value.append(value)
    return made


def fill(sent: Any, examples: list[Any], context: Any = None) -> None:
    if context is None:
        sent.example_list.examples.extend(examples)
        sent.example_list.SetInParent()
    else:
        sent.example_list_with_context.examples.extend(examples)
        sent.example_list_with_context.context.CopyFrom(context)


def ask_grpc(ask: Asker, method: str, signature: str, examples: list[Any], context: Any = None) -> Any:
    request_class, response = METHODS[method]
    request = request_class()
    request.model_spec.name, request.model_spec.signature_name = "examples", signature
    fill(request.input, examples, context)
    return ask.call(f"PredictionService/{method}", request, response)


def classes(result: Any) -> list[list[tuple[str, float]]]:
    return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]


def multi(*tasks: tuple[str, str, str], examples: list[Any]) -> Any:
    request = MultiInferenceRequest()
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = model, signature
    fill(request.input, examples)
    return request


def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details() or ""


def test_classify_answers_labels_and_scores_for_each_example(ask: Asker) -> None:
    response = ask_grpc(ask, "Classify", "classify", [example(f=0.5, s=b"a"), example()])

    assert classes(response.result) == [[("a", 0.5), ("other", -0.5)], [("none", 1.0), ("other", -1.0)]]
    assert (response.model_spec.name, response.model_spec.version.value) == ("examples", 1)
    assert response.model_spec.signature_name == "classify"


def test_a_missing_output_leaves_labels_empty_or_scores_zero(ask: Asker) -> None:
    assert classes(ask_grpc(ask, "Classify", "labels", [example()]).result) == [[("none", 0.0), ("other", 0.0)]]
    assert classes(ask_grpc(ask, "Classify", "scores", [example()]).result) == [[("", 1.0), ("", -1.0)]]


def test_regress_answers_a_value_for_each_example(ask: Asker) -> None:
    response = ask_grpc(ask, "Regress", "regress", [example(f=0.25), example(f=-3.0)])

    assert [entry.value for entry in response.result.regressions] == [0.5, -6.0]


def test_a_context_is_merged_into_each_example_whose_own_features_win(ask: Asker) -> None:
    context = example(f=4.0, s=b"all")
    response = ask_grpc(ask, "Classify", "classify", [example(), example(f=0.5)], context)

    assert classes(response.result) == [[("all", 4.0), ("other", -4.0)], [("all", 0.5), ("other", -0.5)]]


def test_multi_inference_runs_several_signatures_on_the_same_examples(ask: Asker) -> None:
    request = multi(
        ("examples", "classify", "tensorflow/serving/classify"),
        ("examples", "regress", "tensorflow/serving/regress"),
        examples=[example(f=2.0)],
    )
    # Each signature of this model has a placeholder of its own.
    several = ask.call("PredictionService/MultiInference", request, MultiInferenceResponse).results
    assert classes(several[0].classification_result) == [[("none", 2.0), ("other", -2.0)]]
    assert [entry.value for entry in several[1].regression_result.regressions] == [4.0]
    assert [one.model_spec.signature_name for one in several] == ["classify", "regress"]

    request = multi(("examples", "regress", "tensorflow/serving/regress"), examples=[example(f=2.0), example()])
    response = ask.call("PredictionService/MultiInference", request, MultiInferenceResponse)
    (result,) = response.results
    assert [entry.value for entry in result.regression_result.regressions] == [4.0, 2.0]
    assert result.model_spec.signature_name == "regress"


def test_several_signatures_run_by_themselves_beside_batches(models: Path) -> None:
    """What is put together with other requests is one signature; so it is in TensorFlow Serving's batching session."""
    one_row = Batching(Scheduler(1), Scheduler(1), Parameters(max_batch_size=1))
    tasks = [("examples", name, f"tensorflow/serving/{name}") for name in ("classify", "regress")]
    servable = load("examples", 1, models / "examples" / "1", Runtime(batching=one_row))
    try:
        (_, labels), (_, values) = infer_all(servable, multi(*tasks, examples=[example(f=2.0), example()]))
        assert isinstance(labels, Classifications)
        assert labels.rows() == [[(b"none", 2.0), (b"other", -2.0)], [(b"none", 1.0), (b"other", -1.0)]]
        assert isinstance(values, np.ndarray)
        assert values.tolist() == [4.0, 2.0]
        with pytest.raises(RequestError, match="Task size 2 is larger than maximum input batch size 1"):
            infer_all(servable, multi(tasks[1], examples=[example(), example()]))
    finally:
        servable.close()


def test_the_same_requests_over_rest(ask: Asker) -> None:
    examples = [{"f": 0.5, "s": "a"}, {"s": {"b64": "eA=="}}]

    assert ask.post("examples:classify", {"signature_name": "classify", "examples": examples}) == (
        200,
        {"results": [[["a", 0.5], ["other", -0.5]], [["x", 1.0], ["other", -1.0]]]},
    )
    body = {"signature_name": "regress", "examples": examples, "context": {"f": 3.0}}
    assert ask.post("examples:regress", body) == (200, {"results": [1.0, 6.0]})


@pytest.mark.parametrize(
    ("method", "signature", "examples", "text"),
    [
        ("Classify", "nope", [{}], "No signature was found with the name: nope"),
        ("Classify", "regress", [{}], 'Expected classification signature outputs to contain at least one of "classes"'),
        ("Classify", "classify", [], "Input is empty."),
        (
            "Classify",
            "classify",
            [{"f": b"text"}],
            "Data types don't match. Data type: string but expected type: float",
        ),
        ("Regress", "classify", [{}], "Expected one output Tensor."),
        ("Regress", "labels", [{}], "No regression outputs found in SignatureDef: inputs {"),
    ],
)
def test_what_can_not_be_answered_is_refused_and_the_server_goes_on(
    ask: Asker, method: str, signature: str, examples: list[dict[str, Any]], text: str
) -> None:
    code, details = refusal(lambda: ask_grpc(ask, method, signature, [example(**features) for features in examples]))

    assert code == "INVALID_ARGUMENT"
    assert text in details
    if signature == "nope" and ask.engine.embedded:
        assert details.startswith(f"{text}; model 'examples' version 1 has")
    assert ask_grpc(ask, "Regress", "regress", [example()]).result.regressions[0].value == 2.0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [5]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"f": None}]}, "Feature: f has element with unexpected JSON type: Null"),
        ({"examples": [{"f": [1.0, 2]}]}, "Unexpected element type in feature: f expecting type: float"),
        ({"examples": [{"f": 2**63}]}, "Feature: f has uint64_t element. Only int64_t is supported."),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
    ],
)
def test_a_wrong_rest_body_is_refused_with_what_is_wrong(ask: Asker, body: Any, text: str) -> None:
    status, document = ask.post("examples:classify", {"signature_name": "classify", **body})

    assert status == 400
    assert text in document["error"]


@pytest.mark.parametrize(
    "body",
    [
        ({"task": ("", "regress", "tensorflow/serving/regress"), "text": "ModelSpec has no name specified."}),
        ({"task": ("examples", "nope", "tensorflow/serving/regress"), "text": "Requested signature not found"}),
        ({"task": ("examples", "regress", "tensorflow/serving/predict"), "text": "Unsupported signature method_name"}),
    ],
    ids=lambda body: body["text"],
)
def test_a_wrong_task_is_refused(ask: Asker, body: Any) -> None:
    request = multi(body["task"], examples=[example()])
    _, details = refusal(lambda: ask.call("PredictionService/MultiInference", request, MultiInferenceResponse))

    assert details.startswith(body["text"])


def test_warm_up_plays_requests_of_every_kind(models: Path, tmp_path: Path) -> None:
    classify, regress, several = PredictionLog(), PredictionLog(), PredictionLog()
    classify.classify_log.request.model_spec.signature_name = "classify"
    fill(classify.classify_log.request.input, [example()])
    regress.regress_log.request.model_spec.signature_name = "regress"
    fill(regress.regress_log.request.input, [example()])
    task = ("examples", "regress", "tensorflow/serving/regress")
    several.multi_inference_log.request.CopyFrom(multi(task, examples=[example()]))
    servable = load("examples", 1, models / "examples" / "1", Runtime())
    try:
        (tmp_path / "assets.extra").mkdir()
        write_records(tmp_path / warmup.FILE, [log.SerializeToString() for log in (classify, regress, several)])
        assert warmup.play(servable, tmp_path) == 3

        regress.regress_log.request.model_spec.signature_name = "classify"
        write_records(tmp_path / warmup.FILE, [regress.SerializeToString()])
        with pytest.raises(RequestError, match=r"Expected one output Tensor."):
            warmup.play(servable, tmp_path)
    finally:
        servable.close()


def test_scores_that_are_not_finite_are_bare_words_in_rest(ask: Asker) -> None:
    response = ask.rest.post(
        "/v1/models/examples:regress",
        content=b'{"signature_name": "regress", "examples": [{"f": NaN}, {"f": -Infinity}]}',
    )
    assert response.content == b'{\n    "results": [NaN, -Infinity]\n}'
    assert np.isnan(ask_grpc(ask, "Regress", "regress", [example(f=float("nan"))]).result.regressions[0].value)
